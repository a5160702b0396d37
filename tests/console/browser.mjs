// A browser, and what is asked of every page in it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
export const WIDE = { width: 1280, height: 860 };
export const NARROW = { width: 360, height: 740 };

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });

/** A page at `url` that notes everything that a browser complains of. */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: WIDE, ...options });
  const page = await context.newPage();
  page.complaints = [];
  page.on("console", (said) => {
    if (["error", "warning"].includes(said.type())) page.complaints.push(said.text());
  });
  page.on("pageerror", (error) => page.complaints.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) page.complaints.push(`asks ${request.url()}`);
  });
  page.go = (path) => page.goto(url + path);
  return page;
}

/** Runs axe over a page. What a policy forbids to pages is not forbidden to the debugger, which puts it in. */
export async function violations(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Runtime.evaluate", { expression: AXE });
  const { result } = await session.send("Runtime.evaluate", {
    expression: `axe.run(document).then((found) => JSON.stringify({
      wrong: found.violations.map((v) => v.id + ": " + v.nodes.map((n) => n.target.join(" ")).slice(0, 3).join(", ")),
      right: found.passes.length }))`,
    awaitPromise: true,
  });
  const found = JSON.parse(result.value);
  assert.ok(found.right > 10, "axe has looked");
  return found.wrong;
}

/** By how many pixels a page is wider than the screen. */
export const sideways = (page) =>
  page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
