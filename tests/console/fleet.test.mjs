// The console in a real browser, over a store with a thousand satellites that console-fleet (src/main.rs) has filled.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, test } from "node:test";
import { NARROW, launch, open as openIn, sideways, violations } from "./browser.mjs";
import { HOSTILE, TOKEN, site, until } from "./site.mjs";

const SATELLITES = 1_000;
const LONG = `long-${"x".repeat(250)}`;
const ODD = [HOSTILE, LONG, "../a b?find=%3C&page=9#x", "\u202edrawkcab\u200b"];
const to = (id) => `/satellites/${encodeURIComponent(id)}`;

let here, browser;
const open = (options) => openIn(browser, here.url, options);

before(async () => {
  here = await site({ satellites: ["sat-0004"] });
  execFileSync(process.env.CONSOLE_FLEET, [here.at("ground.yaml")]);
  await here.startGround();
  browser = await launch();
}, { timeout: 60_000 });

after(async () => {
  await browser?.close();
  await here?.stop();
});

/** What `look` finds on a page and on those that its link leads to, `most` of them at most. */
async function through(page, path, link, look, most = 100) {
  await page.go(path);
  const found = [];
  for (let n = 1; ; n++) {
    found.push(await look());
    const older = page.getByRole("link", { name: link, exact: true });
    if (n === most || (await older.count()) === 0) return found;
    const before = page.url();
    await older.first().click();
    await page.waitForURL((at) => at.href !== before);
  }
}

const heads = (page, table) => page.locator(`[aria-label='${table}'] tbody th`).allInnerTexts();

test("every satellite is on a page of the fleet, and is found by its name", async () => {
  const page = await open();
  const pages = await through(page, "/", "More satellites", () => heads(page, "Satellites"));
  assert.equal(pages.length, SATELLITES / 100);
  const names = new Set(pages.flat());
  assert.equal(names.size, SATELLITES, "each is there once");
  for (const odd of ODD.slice(0, 2)) assert.ok(names.has(odd), odd);
  for (const [find, found] of [["sat-0777", 1], ["sat-09", 100], [HOSTILE, 1], ["xxxxx", 1], ["?find=%3C&page", 1], ["nobody", 0]]) {
    await page.go("/");
    await page.locator("input[name=find]").fill(find);
    await page.keyboard.press("Enter");
    await page.waitForURL(/find=./);
    assert.equal((await heads(page, "Satellites")).length, found, find);
    assert.equal(await page.locator("input[name=find]").inputValue(), find);
  }
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("a satellite with any name has its pages", async () => {
  const page = await open();
  for (const odd of ODD) {
    const answer = await page.go(to(odd));
    assert.equal(answer.status(), 200, odd);
    assert.ok((await page.locator("h1").innerText()).includes(odd.trim()), odd);
    assert.equal(await page.locator("svg.times rect.plan").count(), 12, odd);
    for (const list of ["passes", "gaps", "catalogue"]) {
      await page.go(`/${list}?satellite=${encodeURIComponent(odd)}`);
      assert.equal(await page.locator("input[name=satellite]").first().inputValue(), odd);
    }
    await page.go(`/passes?satellite=${encodeURIComponent(odd)}`);
    assert.equal((await heads(page, "Passes so far")).length, 12, odd);
  }
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await page.locator("main img, main script").count(), 0);
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("passes of the whole fleet go on behind Older, the latest first and each once", async () => {
  const page = await open();
  const rows = () => page.locator("[aria-label='Passes so far'] tbody tr")
    .evaluateAll((all) => all.map((row) => [row.id, row.querySelector("time").dateTime]));
  const pages = await through(page, "/passes", "Older", rows, 5);
  assert.deepEqual(pages.map((rows) => rows.length), Array(5).fill(100));
  const all = pages.flat();
  assert.equal(new Set(all.map(([id]) => id)).size, 500);
  const times = all.map(([, time]) => time);
  assert.deepEqual(times, [...times].sort().reverse());
  await page.go("/passes");
  assert.equal((await heads(page, "Next contacts")).length, 20);
  const text = await page.locator("main").innerText();
  assert.match(text, /And 980 satellites with a later one/);
  assert.match(text, /by plan \d\d:\d\d:\d\d to \d\d:\d\d:\d\d, guard 5 s/);
  assert.match(text, /3\.0 MiB left on board/);
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("gaps go on behind Older, and lanes that are left out are counted", async () => {
  const page = await open();
  const ids = () => page.locator("[aria-label='What does not come any more'] tbody tr").evaluateAll((all) => all.map((row) => row.id));
  const all = (await through(page, "/gaps", "Older", ids)).flat();
  // 99 satellites have dropped three times, one of them 400 times.
  assert.equal(all.length, 99 * 3 + 400);
  assert.equal(new Set(all).size, all.length, "each once");
  await page.go("/gaps");
  assert.match(await page.locator("main").innerText(), /And 1,500 lanes more: ask for one satellite/);
  const one = (await through(page, "/gaps?satellite=sat-0010", "Older", ids)).map((rows) => rows.length);
  assert.deepEqual(one, [100, 100, 100, 100]);
  await page.context().close();
});

test("dead letters and items by the hundred are listed, found, and acted on", async () => {
  const page = await open();
  const letters = (await through(page, "/data", "Older", () => heads(page, "Dead letters"))).map((rows) => rows.length);
  assert.deepEqual(letters, [50, 50, 50, 50, 50]);
  await page.go("/data");
  assert.match(await page.locator("main").innerText(), /And those of 980 satellites that end later/);
  await until("items are shown", async () => (await heads(page, "Latest items")).length >= 100);
  await page.go(`/data?find=${encodeURIComponent(`record 3 of segment 2 ${HOSTILE}`)}`);
  const found = await page.locator("[aria-label='Latest items'] td[data-label='What it says']").allInnerTexts();
  assert.ok(found.length > 10 && found.every((text) => text.includes(`record 3 of segment 2 ${HOSTILE}`)), `${found.length}`);
  // A page that is open goes on while a long list changes.
  await page.go("/data");
  await page.evaluate(() => { window.sameDocument = true; });
  const act = (body) => fetch(`${here.url}/api/v1/dead-letters/act`, {
    method: "POST", headers: { "content-type": "application/json", authorization: `Bearer ${TOKEN}` }, body: JSON.stringify(body),
  });
  const latest = (await heads(page, "Dead letters"))[0];
  assert.equal((await act({ what: "discard", id: Number(latest) })).status, 200);
  await until("the letter is gone", async () => (await heads(page, "Dead letters"))[0] === `${Number(latest) - 1}`);
  assert.equal(await page.evaluate(() => window.sameDocument), true, "the page was not loaded again");
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("the catalogue goes on behind Older, and knows one satellite among them", async () => {
  const page = await open();
  const ids = () => page.locator("[aria-label='Catalogue'] tbody tr").evaluateAll((all) => all.map((row) => row.id));
  const all = await through(page, "/catalogue", "Older", ids);
  assert.deepEqual(all.map((rows) => rows.length), [100, 100, 100]);
  assert.equal(new Set(all.flat()).size, 300);
  await page.go("/catalogue?satellite=sat-0050");
  assert.equal((await ids()).length, 3);
  const services = page.locator("[aria-label='Catalogue'] td[data-label=Services]");
  await until("its service is known", async () => (await services.allInnerTexts()).every((name) => name.startsWith(`service-50${HOSTILE.slice(0, 30)}`)));
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("long lists are without violations, complaints and sideways scrolling, on a narrow dark screen too", async () => {
  const paths = ["/", to(LONG), "/passes", "/gaps", "/data"];
  for (const [options, paths_] of [[{}, paths], [{ viewport: NARROW, colorScheme: "dark" }, [...paths, to(HOSTILE), "/live", "/catalogue"]]]) {
    const page = await open(options);
    for (const path of paths_) {
      await page.go(path);
      assert.deepEqual(await violations(page), [], path);
      const wide = await sideways(page);
      assert.ok(wide <= 0, `${path} is ${wide} pixels too wide`);
      const names = await page.locator("tbody th a").evaluateAll((all) => Math.max(0, ...all.map((a) => a.getBoundingClientRect().width)));
      assert.ok(names <= 360, `a name on ${path} takes ${names} pixels`);
      assert.equal(await page.evaluate(() => window.hacked), undefined, path);
    }
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  }
});
