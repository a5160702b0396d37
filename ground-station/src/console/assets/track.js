// Draws the ground track of a pass on a map with d3-geo: land, what each station sees, the track, and where the satellite is now.
"use strict";
(() => {
  const SIZE = 460, MIDDLE = SIZE / 2, RADIUS = MIDDLE - 6;
  const element = (name, attributes = {}, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const lands = new Map();
  const landOf = (address) => {
    if (!lands.has(address)) {
      const load = fetch(address).then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(answer.statusText))));
      lands.set(address, load.then((world) => topojson.feature(world, world.objects.land)));
      lands.get(address).catch(() => lands.delete(address));
    }
    return lands.get(address);
  };
  // A ring is drawn around what is inside it.
  const inside = (ring) => {
    const polygon = { type: "Polygon", coordinates: [[...ring, ring[0]]] };
    if (d3.geoArea(polygon) > 2 * Math.PI) polygon.coordinates[0].reverse();
    return polygon;
  };

  // The station's clock counts, as in console.js.
  const now = () => (Date.now() + Number(document.documentElement.dataset.ahead || 0)) / 1000;
  const positionAt = (points, at) => {
    const next = points.findIndex((point) => point[2] > at);
    if (next < 1) return undefined;
    const [a, b] = [points[next - 1], points[next]];
    return d3.geoInterpolate(a, b)((at - a[2]) / (b[2] - a[2]));
  };

  const moving = new Set();
  const tick = () => {
    for (const map of moving) {
      if (!map.svg.isConnected) { moving.delete(map); continue; }
      const place = positionAt(map.track.points, now());
      const at = place && d3.geoDistance(place, map.middle) < map.reach && map.projection(place);
      map.dot.toggleAttribute("hidden", !at);
      if (at) { map.dot.setAttribute("cx", at[0]); map.dot.setAttribute("cy", at[1]); }
    }
  };
  setInterval(tick, 1000);

  const draw = (place, track, land) => {
    const [station, ...others] = track.stations;
    const middle = [station.longitude, station.latitude];
    const [rise, set] = [track.rise.unix_nano / 1e9, track.set ? track.set.unix_nano / 1e9 : Infinity];
    const during = track.points.filter((point) => point[2] >= rise - 1 && point[2] <= set + 1);
    // What the station sees is in the middle of what is shown.
    const edge = Math.max(...station.edge.map((at) => d3.geoDistance(at, middle)), 0.05);
    const reach = Math.min(edge * 1.7, Math.PI * 0.9);
    const projection = d3.geoAzimuthalEquidistant().rotate([-middle[0], -middle[1]]).translate([MIDDLE, MIDDLE])
      .scale(RADIUS / reach).clipAngle((reach * 180) / Math.PI).precision(0.3);
    const path = d3.geoPath(projection).pointRadius(3.5);
    const svg = element("svg", { class: "map", viewBox: `0 0 ${SIZE} ${SIZE}`, role: "img" });
    svg.setAttribute("aria-label", `The ground track of ${track.name} around ${track.station}, and what each station sees`);
    const add = (kind, shape) => { const d = path(shape); if (d) svg.append(element("path", { class: kind, d })); };
    const label = (at, text) => {
      const spot = d3.geoDistance(at, middle) < reach && projection(at);
      if (!spot) return;
      const left = spot[0] > SIZE * 0.7;
      svg.append(element("text", { x: spot[0] + (left ? -7 : 7), y: spot[1] - 6, "text-anchor": left ? "end" : "start" }, text));
    };
    add("sea", { type: "Sphere" });
    add("land", land);
    add("grid", d3.geoGraticule().step([reach < 0.6 ? 10 : 30, reach < 0.6 ? 10 : 30])());
    for (const other of others) add("sight", inside(other.edge));
    add("sight own", inside(station.edge));
    add("way", { type: "LineString", coordinates: track.points.map(([east, north]) => [east, north]) });
    if (during.length > 1) add("pass", { type: "LineString", coordinates: during.map(([east, north]) => [east, north]) });
    add("border", { type: "Sphere" });
    for (const at of track.stations) {
      const spot = [at.longitude, at.latitude];
      add("station", { type: "Point", coordinates: spot });
      label(spot, at.station);
    }
    const moments = [["rise", track.rise], ["set", track.set]];
    for (const [name, moment] of moments) {
      const spot = moment && positionAt(track.points, moment.unix_nano / 1e9);
      if (!spot) continue;
      add("moment", { type: "Point", coordinates: spot });
      label(spot, name);
    }
    const dot = element("circle", { class: "now", r: 6, hidden: "" });
    dot.append(element("title", {}, "now"));
    svg.append(dot);
    place.replaceChildren(svg);
    place.classList.add("drawn");
    moving.add({ svg, dot, track, middle, reach, projection });
    tick();
  };

  const update = async () => {
    for (const figure of document.querySelectorAll("figure[data-track]")) {
      const place = figure.querySelector(".plot");
      if (!place || place.classList.contains("drawn") || place.dataset.asking) continue;
      place.dataset.asking = "yes";
      try {
        const [answer, land] = await Promise.all([fetch(figure.dataset.track), landOf(figure.dataset.land)]);
        if (answer.ok) draw(place, await answer.json(), land);
      } catch { /* The banner says it. */ }
      delete place.dataset.asking;
    }
  };
  document.addEventListener("fresh", update);
  update();
})();
