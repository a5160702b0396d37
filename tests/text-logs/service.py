"""A small shop: threads answer requests over HTTP. Each line that it logs goes out as JSON, as logfmt and as prose, with the ids
of the span that is open; the spans go to service.spans (trace, span, parent or -, start and end in ns, name).

usage: service.py DIRECTORY REQUESTS
"""

import http.server
import json
import logging
import os
import random
import sys
import threading
import time
import urllib.request

directory, requests = sys.argv[1], int(sys.argv[2])
current = threading.local()
lock = threading.Lock()
spans = open(os.path.join(directory, "service.spans"), "w")
items = [f"{a}-{b}" for a in ("lamp", "chair", "rope", "kettle", "tent") for b in ("red", "small", "oak", "xl")]


class Span:
    def __init__(self, name, trace=None, parent="-"):
        self.name, self.trace, self.parent = name, trace or os.urandom(16).hex(), parent
        self.id = os.urandom(8).hex()

    def child(self, name):
        return Span(name, self.trace, self.id)

    def __enter__(self):
        self.outer, current.span = getattr(current, "span", None), self
        self.start = time.time_ns()
        return self

    def __exit__(self, *_):
        current.span = self.outer
        with lock:
            print(self.trace, self.id, self.parent, self.start, time.time_ns(), self.name, file=spans)


def ids():
    span = getattr(current, "span", None)
    return {"trace_id": span.trace, "span_id": span.id} if span else {}


def at(record):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class Json(logging.Formatter):
    def format(self, record):
        head = {"timestamp": at(record), "level": record.levelname, "logger": record.name, "thread": record.threadName}
        return json.dumps({**head, "message": record.getMessage(), **ids(), **getattr(record, "fields", {})})


class Logfmt(logging.Formatter):
    def format(self, record):
        fields = "".join(f" {k}={v}" for k, v in {**ids(), **getattr(record, "fields", {})}.items())
        level = record.levelname.lower()
        return f'time={at(record)} level={level} logger={record.name} msg="{record.getMessage()}"{fields}'


class Prose(logging.Formatter):
    def __init__(self):
        super().__init__("%(asctime)s %(levelname)-5s [%(threadName)s] %(name)s - %(ids)s%(message)s")

    def format(self, record):
        record.ids = "[" + ",".join(ids().values()) + "] " if ids() else ""
        return super().format(record)


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        _, trace, parent, _ = self.headers["traceparent"].split("-")
        web, db, cart = (logging.getLogger(f"shop.{name}") for name in ("http", "db", "cart"))
        with Span("GET /cart", trace, parent) as span:
            user, item, count = random.randrange(2000), random.choice(items), random.choice([1, 1, 2, 5])
            web.info("request %s", self.path, extra={"fields": {"client": "%s:%d" % self.client_address}})
            with span.child("SELECT"):
                start = time.perf_counter()
                time.sleep(random.expovariate(2000))
                took = (time.perf_counter() - start) * 1e3
                db.debug("query took %.3fms rows=%d", took, random.randrange(1, 40))
            if random.random() < 0.03:
                try:
                    raise KeyError(item)
                except KeyError:
                    db.exception("stock of %s for user %d cannot be read", item, user)
            cart.info("user %d put %d x %s into cart %08x", user, count, item, random.getrandbits(32))
            self.send_response(204)
            self.end_headers()
            fields = {"status": 204, "bytes": random.randrange(200, 9000), "path": self.path}
            web.info("answered", extra={"fields": fields})


def client(port):
    for _ in range(requests // 4):
        with Span("checkout") as span:
            url = f"http://127.0.0.1:{port}/cart/{random.choice(items)}?page={random.randrange(9)}"
            headers = {"traceparent": f"00-{span.trace}-{span.id}-01"}
            urllib.request.urlopen(urllib.request.Request(url, headers=headers)).read()


def main():
    logging.getLogger().setLevel(logging.DEBUG)
    for name, formatter in (("json", Json()), ("logfmt", Logfmt()), ("prose", Prose())):
        handler = logging.FileHandler(os.path.join(directory, f"service-{name}.log"), "w")
        handler.setFormatter(formatter)
        logging.getLogger().addHandler(handler)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    clients = [threading.Thread(target=client, args=(server.server_port,), name=f"worker-{n}") for n in range(4)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    spans.close()


main()
