// Pictures of the pages over a small fleet: a pass that goes on, one that fell short, a plan that is wrong, a backend that refuses.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { TOKEN, elements, site, until } from "./site.mjs";

const [, , directory] = process.argv;
const WIDE = { width: 1180, height: 760 };
const NARROW = { width: 360, height: 700 };
const SHOTS = [
  ["live", "/live", "light", WIDE], ["fleet", "/", "light", WIDE], ["satellite", "/satellites/aurora-2", "light", WIDE],
  ["passes", "/passes", "light", WIDE], ["gaps", "/gaps", "light", WIDE], ["data", "/data", "light", WIDE],
  ["catalogue", "/catalogue", "light", WIDE], ["fleet-dark", "/", "dark", WIDE], ["track", "/passes?satellite=kestrel", "light", WIDE, ".tracks"],
  ["track-narrow", "/passes?satellite=kestrel", "dark", NARROW, ".tracks"],
  ["replays", "/catalogue", "light", WIDE, "#replays"], ["replays-narrow", "/catalogue", "dark", NARROW, "#replays"], ["catalogue-narrow", "/catalogue", "dark", NARROW], ["audit", "/audit", "light", WIDE],
  ["audit-narrow", "/audit", "dark", NARROW], ["satellite-narrow", "/satellites/aurora-2", "dark", NARROW],
];

const here = await site({ satellites: ["aurora-1", "aurora-2", "kestrel"], lane: "alarms", words: "span 'refuse-me': attribute 'exposure' must be a number" });
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
try {
  await here.startGround();
  const at = (seconds) => new Date(Date.now() + seconds * 1000).toISOString().replace(/\.\d+/, "");
  const plan = (name, contacts) => writeFileSync(here.at(name), JSON.stringify({
    contacts: contacts.map(([start, end, rate_down]) => ({ station: "svalbard", start: at(start), end: at(end), rate_down })),
  }));
  plan("aurora-1.plan", [[22, 200, "300kbit/s"], [5400, 5900, "2Mbit/s"]]);
  plan("aurora-2.plan", [[1, 5, "1Mbit/s"], [8, 12, "1Mbit/s"], [15, 18, "2Mbit/s"], [2520, 3000, "2Mbit/s"]]);
  await here.startAgent("aurora-1", { source: "plan", file: here.at("aurora-1.plan") }, {}, await here.radio(37_000));
  await here.startAgent("aurora-2", { source: "plan", file: here.at("aurora-2.plan") }, {}, await here.radio(120_000));
  writeFileSync(here.at("kestrel.json"), elements("KESTREL"));
  const contacts = {
    source: "orbit", file: here.at("kestrel.json"), fallback: "none", stations: { svalbard: { latitude: 78.23, longitude: 15.39, mask: 5 } },
  };
  await here.startAgent("kestrel", contacts, {
    lanes: { alarms: { number: 1, match: [{ severity: "error" }] }, bulk: { lifetime: "2s" } },
  });
  const noise = (n) => [...crypto.getRandomValues(new Uint8Array(n))].map((b) => b.toString(36)).join("");
  const frames = (id, count) => here.logs(id, "camera", Array.from({ length: count }, (_, n) => [9, `frame ${n} ${noise(600)}`]));
  await here.spans("kestrel", "payload", ["expose", "compress"]);
  for (const id of ["aurora-1", "aurora-2"]) await frames(id, 300);
  await here.gauge("aurora-2", "power", "battery.voltage", [7.4, 7.5, 7.3]);
  await here.logs("aurora-2", "power", [[17, "battery temperature 2 °C below its limit", "battery.cold"], [9, "heater on"]]);
  await here.spans("aurora-2", "camera", ["expose", "refuse-me", "store"]);
  await new Promise((wake) => setTimeout(wake, 6000));
  await frames("aurora-2", 500);
  await new Promise((wake) => setTimeout(wake, 7000));
  await frames("aurora-2", 700);
  for (let n = 0; n < 6; n++) await frames("aurora-1", 400);
  here.contact("kestrel", "open", "svalbard", "--for", "3s");
  writeFileSync(here.at("aurora-2.plan"), "contacts: [{station: svalbard, start: 2026-13-01T00:00:00Z}]");
  await until("aurora-1 sends", async () => {
    const all = await (await fetch(`${here.api}/api/v1/satellites`)).json();
    return all.find((s) => s.satellite === "aurora-1")?.connected;
  }, 60);
  await new Promise((wake) => setTimeout(wake, 5000));
  const act = (method, path, body) => fetch(here.url + path, {
    method, headers: { "content-type": "application/json", authorization: `Bearer ${TOKEN}` }, body: JSON.stringify(body),
  });
  await act("POST", "/api/v1/replays", { exporter: "file/all", satellite: "aurora-2", from: at(-600), until: at(600) });
  await act("DELETE", "/api/v1/replays/9");
  await act("POST", "/api/v1/dead-letters/act", { what: "replay", all: true });
  mkdirSync(directory, { recursive: true });
  for (const [name, path, colorScheme, viewport, at] of SHOTS) {
    const page = await browser.newPage({ colorScheme, viewport });
    await page.goto(here.url + path);
    await page.waitForTimeout(2500);
    if (at) await page.locator(at).evaluate((part) => part.scrollIntoView());
    await page.screenshot({ path: join(directory, `${name}.png`) });
    await page.close();
  }
} finally {
  await browser.close();
  await here.stop();
}
