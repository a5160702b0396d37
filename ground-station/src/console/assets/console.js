// Keeps a page as it is now: asks for it again when the ground station says that something has changed, and puts what is different
// in its place, so that focus, scrolling, open parts and what somebody types stay.
"use strict";
(() => {
  const main = document.querySelector("main");
  const stale = document.getElementById("stale");
  // The events after which the page has changed.
  const live = document.body.dataset.live.split(" ").filter(Boolean);

  // Lengths of time in words, as the server writes them.
  const span = (ms) => {
    const s = ms / 1000;
    if (s < 90) return `${s.toFixed(0)} s`;
    if (s < 5400) return `${(s / 60).toFixed(0)} min`;
    if (s < 172800) return `${(s / 3600).toFixed(1)} h`;
    return `${(s / 86400).toFixed(0)} d`;
  };
  // The station's clock counts, not this machine's.
  let ahead = Number(document.body.dataset.now) - Date.now();
  const tick = () => {
    document.documentElement.dataset.ahead = ahead;
    const now = Date.now() + ahead;
    for (const time of document.querySelectorAll("time[data-at]")) {
      const at = Number(time.dataset.at);
      const text = at <= now ? `${span(now - at)} ago` : `in ${span(at - now)}`;
      if (time.textContent !== text) time.textContent = text;
    }
  };
  setInterval(tick, 1000);


  // Makes `old` what `fresh` is, keeping every element that can stay.
  const same = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "") &&
    (a.dataset?.key || "") === (b.dataset?.key || "");
  const morph = (old, fresh) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    // What somebody fills in is his.
    if (old.matches("form.act, form.filter") && old.contains(document.activeElement)) return;
    // What is drawn is not in the page that comes.
    if (old.matches(".plot.drawn")) return;
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
    }
    if (old.matches("input, select, textarea")) return;
    const keyed = new Map([...old.children].filter((c) => c.dataset.key).map((c) => [c.dataset.key, c]));
    let at = old.firstChild;
    for (const next of [...fresh.childNodes]) {
      const key = next.dataset?.key;
      const found = key && keyed.get(key);
      if (found && found !== at && same(found, next)) old.insertBefore(found, at);
      const here = found && same(found, next) ? found : at;
      if (here && same(here, next)) {
        morph(here, next);
        at = here.nextSibling;
      } else {
        old.insertBefore(document.importNode(next, true), at);
      }
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  };

  let asking = false, again = false;
  const refresh = async () => {
    if (asking) { again = true; return; }
    asking = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, redirect: "error" });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelector("main");
        if (fresh) morph(main, fresh);
        const [old, state] = [document.getElementById("state"), page.getElementById("state")];
        if (old && state) morph(old, state);
        ahead = Number(page.body.dataset.now) - Date.now();
        tick();
        document.dispatchEvent(new Event("fresh"));
      }
    } catch { /* The banner says it. */ }
    asking = false;
    if (again) { again = false; refresh(); }
  };

  if (live.length === 0) return;
  let heard = Date.now();
  const source = new EventSource("/api/v1/events");
  const hear = () => { heard = Date.now(); if (stale) stale.hidden = true; };
  source.addEventListener("open", () => { hear(); refresh(); });
  source.addEventListener("look", (event) => {
    hear();
    if (JSON.parse(event.data).changed && !document.hidden) refresh();
  });
  if (live.includes("links")) source.addEventListener("links", () => { if (!document.hidden) refresh(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  setInterval(() => {
    if (stale && Date.now() - heard > 15000) {
      stale.textContent = `The ground station has not answered for ${span(Date.now() - heard)}: this page is not up to date.`;
      stale.hidden = false;
    }
  }, 2000);
})();
