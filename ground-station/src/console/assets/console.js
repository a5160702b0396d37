// Around htmx, which asks for a page again when the ground station says that something has changed: what stays as it is when the page
// that comes is put in its place, times in words, and a banner when nothing is heard.
"use strict";
(() => {
  const stale = document.getElementById("stale");

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
  tick();
  setInterval(tick, 1000);

  const { callbacks } = Idiomorph.defaults;
  callbacks.beforeNodeMorphed = (old) => {
    if (old.nodeType !== Node.ELEMENT_NODE) return true;
    // What somebody fills in is his, and what is drawn is not in the page that comes.
    if (old.matches("form.act, form.filter") && old.contains(document.activeElement)) return false;
    return !old.matches("input, select, textarea, .plot.drawn");
  };
  // What somebody has opened stays open.
  callbacks.beforeAttributeUpdated = (name, node, change) => !(name === "open" && change === "remove" && node.nodeName === "DETAILS");

  let heard = Date.now();
  const hear = () => { heard = Date.now(); if (stale) stale.hidden = true; };
  document.body.addEventListener("htmx:sseOpen", hear);
  document.body.addEventListener("htmx:sseMessage", hear);
  document.body.addEventListener("htmx:beforeRequest", (event) => {
    const by = event.detail.requestConfig.triggeringEvent;
    const same = by?.type === "sse:look" && !JSON.parse(by.detail.data).changed;
    if (same || document.hidden) event.preventDefault();
  });
  // Somebody who is signed out stays where he is.
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    if (new URL(event.detail.xhr.responseURL || location.href).pathname !== location.pathname) event.detail.shouldSwap = false;
  });
  document.body.addEventListener("htmx:afterSwap", () => {
    const now = Number(document.getElementById("now")?.dataset.now);
    if (now) ahead = now - Date.now();
    tick();
    document.dispatchEvent(new Event("fresh"));
  });
  setInterval(() => {
    if (stale && Date.now() - heard > 15000) {
      stale.textContent = `The ground station has not answered for ${span(Date.now() - heard)}: this page is not up to date.`;
      stale.hidden = false;
    }
  }, 2000);
})();
