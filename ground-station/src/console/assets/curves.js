// Draws a satellite's curves with uPlot from what the API answers, again whenever the page has changed.
"use strict";
(() => {
  const date = (s) => new Date(s * 1000).toISOString();
  const number = (n, digits) => n.toFixed(digits).replace(/\.0+$/, "");
  const units = {
    bytes: (n) => {
      let unit = 0;
      while (Math.abs(n) >= 1024 && unit < 4) { n /= 1024; unit++; }
      return `${number(n, unit ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
    },
    seconds: (n) => {
      const s = Math.abs(n);
      if (s === 0) return "0 s";
      if (s < 1) return `${number(n * 1e3, 1)} ms`;
      if (s < 90) return `${number(n, 1)} s`;
      if (s < 5400) return `${number(n / 60, 1)} min`;
      return s < 172800 ? `${number(n / 3600, 1)} h` : `${number(n / 86400, 1)} d`;
    },
    percent: (n) => `${number(n, 1)} %`,
  };
  const times = (plot, splits, axis, space, step) => splits.map((s) => {
    const at = date(s);
    return step >= 86400 ? at.slice(5, 10) : step >= 60 ? at.slice(11, 16) : at.slice(11, 19);
  });
  const twos = Array.from({ length: 50 }, (_, power) => 2 ** power);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const drawn = new Map();
  const draw = (figure, curve) => {
    const place = figure.querySelector(".plot");
    const width = figure.clientWidth - 4;
    if (curve.at.length < 2 || width < 100) return;
    const old = drawn.get(curve.id);
    if (old && old.place === place && old.width === width && old.unit === curve.unit) {
      old.plot.setData([curve.at, curve.values]);
      return;
    }
    old?.plot.destroy();
    const [line, grid, text] = [colour("--bar"), colour("--line"), colour("--soft")];
    const show = (n) => (n == null ? "-" : units[curve.unit](n));
    const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font: "11px system-ui, sans-serif" };
    place.classList.add("drawn");
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${curve.name} over time: ${curve.at.length} values, the latest ${show(curve.values.at(-1))}`);
    const plot = new uPlot({
      width, height: 150,
      cursor: { points: { size: 6 }, drag: { x: true, y: false } },
      scales: { y: { range: (u, least, most) => uPlot.rangeNum(curve.id === "clock" ? least : Math.min(0, least), most || (curve.unit === "bytes" ? 1024 : 1), 0.1, true) } },
      series: [
        { label: "UTC", value: (u, s) => (s == null ? "-" : date(s).slice(0, 19).replace("T", " ")) },
        { label: curve.name, stroke: line, width: 1.5, points: { show: curve.at.length < 100, size: 4 }, value: (u, n) => show(n) },
      ],
      axes: [{ ...axis, values: times, space: 60 }, { ...axis, size: 70, values: (u, splits) => splits.map(show), ...(curve.unit === "bytes" ? { incrs: twos } : {}) }],
    }, [curve.at, curve.values], place);
    drawn.set(curve.id, { plot, place, width, unit: curve.unit });
  };

  let asking = false;
  const update = async () => {
    const host = document.querySelector("[data-curves]");
    if (!host || asking || document.hidden) return;
    asking = true;
    try {
      const answer = await fetch(host.dataset.curves);
      for (const curve of answer.ok ? await answer.json() : []) {
        const figure = host.querySelector(`[data-curve="${CSS.escape(curve.id)}"]`);
        if (figure) draw(figure, curve);
      }
    } catch { /* The banner says it. */ }
    asking = false;
  };
  const again = () => { for (const { plot } of drawn.values()) plot.destroy(); drawn.clear(); update(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  let resized;
  addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(update, 200); });
  // A page of a satellite that is heard changes every second; its curves need not.
  let next;
  document.addEventListener("fresh", () => { next ??= setTimeout(() => { next = undefined; update(); }, 3000); });
  update();
})();
