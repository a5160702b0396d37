// A ground-station with its console, two agents and a backend that refuses, as real processes in a directory of their own.

import { spawn, execFileSync } from "node:child_process";
import { mkdtempSync, writeFileSync, rmSync, openSync, readFileSync } from "node:fs";
import { createSocket as createUdp } from "node:dgram";
import { createServer } from "node:http";
import { createServer as createSocket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const GROUND = process.env.GROUND_STATION;
const AGENT = process.env.SPACE_AGENT;

/** Text that would do something if it were not escaped. */
export const HOSTILE = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'"&`;

/** The token that may act. */
export const TOKEN = "0123456789abcdef0123456789abcdef";

/** An OMM of a satellite over the poles, 550 km high, as of now. */
export const elements = (name) => JSON.stringify({
  OBJECT_NAME: name, EPOCH: new Date().toISOString().replace("Z", ""), MEAN_MOTION: 15.06, ECCENTRICITY: 0.0011, INCLINATION: 97.6,
  RA_OF_ASC_NODE: 42.1, ARG_OF_PERICENTER: 80, MEAN_ANOMALY: 280.2, BSTAR: 0.0002, NORAD_CAT_ID: 100001,
});

/** Waits until `look` is truthy; what it is. */
export async function until(what, look, seconds = 30) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const found = await Promise.resolve().then(look).catch(() => undefined);
    if (found) return found;
    if (Date.now() > end) throw new Error(`in ${seconds} s it was not so that ${what}`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

async function freePort() {
  const socket = createSocket();
  await new Promise((ready) => socket.listen(0, "127.0.0.1", ready));
  const { port } = socket.address();
  await new Promise((closed) => socket.close(closed));
  return port;
}

/** A backend that refuses what has a certain word in it, with hostile words, and takes the rest. */
async function backend(words) {
  const state = { refuses: true };
  const server = createServer((request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => {
      const refused = state.refuses && Buffer.concat(parts).includes("refuse-me");
      response.writeHead(refused ? 400 : 200, { "content-type": refused ? "text/plain" : "application/x-protobuf" });
      response.end(refused ? words : "");
    });
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  return { port: server.address().port, state, close: () => server.close() };
}

/** A radio link before a UDP port: what is sent to it goes on at so many bytes a second, and what it has no room for is lost. */
async function radio(port, bytesPerSecond) {
  const [front, back] = [createUdp("udp4"), createUdp("udp4")];
  let satellite, free = 0;
  front.on("message", (packet, from) => {
    satellite = from;
    const now = performance.now();
    if (free - now > 300) return;
    free = Math.max(free, now) + (packet.length / bytesPerSecond) * 1000;
    setTimeout(() => back.send(packet, port, "127.0.0.1"), free - now);
  });
  back.on("message", (packet) => front.send(packet, satellite.port, satellite.address));
  await Promise.all([front, back].map((socket) => new Promise((bound) => socket.bind(0, "127.0.0.1", bound))));
  // They keep no process alive, and send nothing into sockets that are closed.
  front.unref();
  back.unref();
  return front.address().port;
}

/** Everything together. */
export async function site({ satellites = ["sat-1", "sat-2"], lane = "alarms <b>", words = `I do not like this: ${HOSTILE}` } = {}) {
  const dir = mkdtempSync(join(tmpdir(), "perigee-console-"));
  const at = (name) => join(dir, name);
  const pki = (...words) => execFileSync(GROUND, ["pki", ...words, "--dir", at("pki")]);
  pki("init", "--domain", "example.org");
  for (const id of satellites) pki("issue", "satellite", id);
  pki("issue", "station", "svalbard");
  const taker = await backend(words);
  const [link, console_, api] = [await freePort(), await freePort(), await freePort()];
  writeFileSync(at("act"), `# who may act\nann ${TOKEN}\n`);
  const ground = {
    link: {
      station: "svalbard", listen: [`127.0.0.1:${link}`], certificate_file: at("pki/station-svalbard.crt"),
      private_key_file: at("pki/station-svalbard.key"), satellite_ca_file: at("pki/satellite-ca.crt"),
      satellites: Object.fromEntries(satellites.map((id) => [id, {}])), partial_sync_interval: "200ms",
    },
    exporters: {
      "file/all": { path: at("out.jsonl") },
      "otlphttp/backend": {
        endpoint: `http://127.0.0.1:${taker.port}`, compression: "none",
        retry_on_failure: { initial_interval: "100ms", max_interval: "500ms" },
      },
    },
    storage: { directory: at("spool"), ballast: "0B" },
    extensions: {
      api: { endpoint: `127.0.0.1:${api}` },
      console: { endpoint: `127.0.0.1:${console_}`, act_tokens_file: at("act") },
      control: { socket: at("ground.sock") },
    },
    service: {
      pipelines: {
        traces: { exporters: ["file/all", "otlphttp/backend"] },
        metrics: { exporters: ["file/all"] },
        logs: { exporters: ["file/all", "otlphttp/backend"] },
      },
    },
  };
  writeFileSync(at("ground.yaml"), JSON.stringify(ground));
  const running = new Set();
  const run = (program, name, ...words) => {
    const log = openSync(at(`${name}.log`), "a");
    const child = spawn(program, words, { stdio: ["ignore", log, log] });
    running.add(child);
    child.on("exit", () => running.delete(child));
    return child;
  };
  const startGround = async () => {
    const child = run(GROUND, "ground", "run", "--config", at("ground.yaml"));
    await until("the console answers", async () => (await fetch(`http://127.0.0.1:${console_}/`)).ok);
    return child;
  };
  const agents = {};
  const startAgent = async (id, contacts, extra = {}, port = link) => {
    const http = await freePort();
    const config = {
      receivers: { otlp: { protocols: { http: { endpoint: `127.0.0.1:${http}` } } } },
      processors: { memory_limiter: {}, batch: { timeout: "200ms" } },
      exporters: { link: {} },
      storage: { directory: at(`wal-${id}`), ballast: "0B" },
      lanes: { [lane]: { number: 1, match: [{ severity: "error" }], timeout: "0s" } },
      link: {
        certificate_file: at(`pki/satellite-${id}.crt`), private_key_file: at(`pki/satellite-${id}.key`),
        station_ca_file: at("pki/station-ca.crt"), stations: { svalbard: { address: `127.0.0.1:${port}` } },
      },
      contacts,
      extensions: { control: { socket: at(`${id}.sock`) } },
      service: {
        pipelines: Object.fromEntries(["traces", "metrics", "logs"].map((signal) => [signal, {
          receivers: ["otlp"], processors: ["memory_limiter", "batch"], exporters: ["link"],
        }])),
      },
      ...extra,
    };
    writeFileSync(at(`${id}.yaml`), JSON.stringify(config));
    const child = run(AGENT, id, "run", "--config", at(`${id}.yaml`));
    agents[id] = { http, child };
    await until(`${id} listens`, async () => (await fetch(`http://127.0.0.1:${http}/`)).status > 0);
  };
  const contact = (id, ...words) => execFileSync(AGENT, ["contact", ...words, "--config", at(`${id}.yaml`)]);
  const send = async (id, path, body) => {
    const answer = await fetch(`http://127.0.0.1:${agents[id].http}${path}`, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error(`${id} refuses ${path}: ${answer.status} ${await answer.text()}`);
  };
  const nano = () => `${BigInt(Date.now()) * 1_000_000n}`;
  const resource = (service) => ({ attributes: [{ key: "service.name", value: { stringValue: service } }] });
  const logs = (id, service, records) => send(id, "/v1/logs", {
    resourceLogs: [{ resource: resource(service), scopeLogs: [{ logRecords: records.map(([severityNumber, body, event]) => ({
      timeUnixNano: nano(), severityNumber, body: { stringValue: body }, eventName: event ?? "",
    })) }] }],
  });
  const hex = (n) => [...crypto.getRandomValues(new Uint8Array(n))].map((b) => b.toString(16).padStart(2, "0")).join("");
  const spans = (id, service, names) => send(id, "/v1/traces", {
    resourceSpans: [{ resource: resource(service), scopeSpans: [{ spans: names.map((name) => ({
      traceId: hex(16), spanId: hex(8), name, kind: 1, startTimeUnixNano: nano(), endTimeUnixNano: nano(),
      status: { code: name.includes("fail") ? 2 : 1, message: name.includes("fail") ? HOSTILE : "" },
    })) }] }],
  });
  const gauge = (id, service, name, values) => send(id, "/v1/metrics", {
    resourceMetrics: [{ resource: resource(service), scopeMetrics: [{ metrics: [{ name, unit: "V", gauge: {
      dataPoints: values.map((asDouble) => ({ timeUnixNano: nano(), asDouble })),
    } }] }] }],
  });
  const stop = async () => {
    for (const child of running) child.kill("SIGTERM");
    await until("every process has ended", () => running.size === 0, 20).catch(() => {
      for (const child of running) child.kill("SIGKILL");
    });
    taker.close();
    if (process.env.KEEP_SITE) console.error(`kept ${dir}`);
    else rmSync(dir, { recursive: true, force: true });
  };
  return {
    dir, at, url: `http://127.0.0.1:${console_}`, api: `http://127.0.0.1:${api}`, backend: taker.state,
    startGround, startAgent, radio: (bytesPerSecond) => radio(link, bytesPerSecond), contact, logs, spans, gauge, send, stop,
    log: (name) => readFileSync(at(`${name}.log`), "utf8"),
  };
}
