// The console in a real browser, over the demo as a newcomer starts it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { until } from "./site.mjs";

const skip = process.env.DEMO ? false : "no demo was built; DEMO names one";
let demo, browser, url, directory;
let said = "";

before(async () => {
  if (skip) return;
  directory = mkdtempSync(join(tmpdir(), "perigee-demo-"));
  demo = spawn(process.env.DEMO, ["--files", "--contact", "5s", "--gap", "3s", "--dir", join(directory, "run")], { stdio: ["ignore", "pipe", "pipe"] });
  for (const stream of [demo.stdout, demo.stderr]) stream.on("data", (part) => (said += part));
  url = (await until("the story is over and the demo names its console", () => /console +(http:\/\/\S+)\//.exec(said), 240))[1];
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
}, { timeout: 250_000 });

after(async () => {
  await browser?.close();
  demo?.kill("SIGKILL");
  if (directory) rmSync(directory, { recursive: true });
});

test("every page of the demo's console shows what the demo tells", { skip }, async () => {
  const page = await browser.newPage();
  const complaints = [];
  page.on("console", (line) => ["error", "warning"].includes(line.type()) && complaints.push(line.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(`${url}/`);
  const satellite = await page.locator("a[href^='/satellites/']").first().getAttribute("href");
  for (const [path, shows] of [
    ["/", /Fleet/], [satellite, /alarms on board[\s\S]*passes/i], ["/passes", /demo-ground[\s\S]*closed it/], ["/gaps", /missing|waits/i],
    ["/data", /file\/traces[\s\S]*Latest items/], ["/live", /Live/], ["/catalogue", /spans|logs/], ["/audit", /Audit/],
  ]) {
    const answer = await page.goto(url + path);
    assert.equal(answer.status(), 200, path);
    await until(`${path} shows ${shows}`, async () => shows.test(await page.locator("body").innerText())).catch(async (error) => {
      throw new Error(`${error.message}:\n${await page.locator("body").innerText()}`);
    });
  }
  await page.goto(`${url}/live`);
  await until("a contact is followed while it goes on", async () => (await page.locator("section[aria-label=demo-sat]").count()) > 0, 60);
  assert.deepEqual(complaints, []);
  await page.close();
});

test("the demo ends in order", { skip }, async () => {
  const ended = new Promise((end) => demo.once("exit", (code, signal) => end(code ?? signal)));
  demo.kill("SIGINT");
  assert.equal(await ended, 0, said.slice(-2000));
});
