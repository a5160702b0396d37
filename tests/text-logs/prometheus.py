"""Writes prometheus.log: a Prometheus whose targets, rules, alertmanager, remote storage and configuration fail in part.

usage: prometheus.py DIRECTORY
"""

import pathlib
import random
import sys
import time

import capture
from capture import stack

RULES = """\
groups:
  - name: sound
    interval: 1s
    rules:
      - {record: "job:up:sum", expr: "sum by (job) (up)"}
      - {alert: TargetDown, expr: "up == 0", labels: {severity: page}, annotations: {summary: "{{ $labels.instance }} is down"}}
  - name: broken
    interval: 1s
    rules:
      - {record: "twice", expr: 'label_replace(up, "instance", "one", "", "")'}
      - {record: "many", expr: "up * on (job) shop_orders_total"}
"""


class Targets(capture.FlakyBackend):
    """Targets by path, and a remote storage that fails at times."""

    class Handler(capture.FlakyBackend.Handler):
        def do_GET(self):
            way = self.path.split("/")[1]
            orders = "".join(f'shop_orders_total{{item="{item}"}} {random.randrange(10**6)}\n' for item in "abcdefgh")
            if way == "slow":
                # Longer than a scrape may take.
                time.sleep(random.uniform(0.1, 0.4))
            if way == "flaky" and random.random() < 0.5:
                way = random.choice(["status", "garbage", "hangs-up"])
            if way == "hangs-up":
                self.close_connection = True
                return
            bodies = {
                "garbage": f"shop_orders_total{{item=\"{random.getrandbits(32):x} 1\n",
                "twice": orders + 'shop_orders_total{item="a"} -1\n',
                "late": f"shop_late {random.random()} {int(time.time() * 1000) - random.randrange(10**7)}\n",
                "future": f"shop_future {random.random()} {int(time.time() * 1000) + 10**8}\n",
                "many": "".join(f"shop_many{{n=\"{n}\"}} 1\n" for n in range(random.randrange(500))),
            }
            body = bodies.get(way, orders).encode()
            self.send_response(random.choice([500, 502, 404, 401]) if way == "status" else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def __init__(self):
        super().__init__(self.Handler)


class Prometheus(stack.Process):
    """Prometheus at its most talkative, with blocks that are cut after some seconds."""

    def __init__(self, directory, targets):
        self.port = stack.free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.config = directory / "prometheus.yml"
        (directory / "rules.yml").write_text(RULES)
        ways = ["sound", "flaky", "slow", "status", "garbage", "twice", "late", "future", "many", "hangs-up"]
        replicas = "".join(
            f'      - {{targets: ["127.0.0.1:{targets.server_port}"], labels: {{replica: "{n}"}}}}\n' for n in range(4)
        )
        jobs = "".join(f"""\
  - job_name: {way}
    sample_limit: 200
    relabel_configs: [{{source_labels: [replica], target_label: __metrics_path__, replacement: "/{way}/$1"}}]
    static_configs:
{replicas}""" for way in ways)
        gone = stack.free_port()
        self.sound = f"""\
global: {{scrape_interval: 500ms, scrape_timeout: 250ms}}
rule_files: [rules.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{gone}"]}}]}}]}}
remote_write:
  - url: "{targets.base}/write"
    queue_config: {{max_samples_per_send: 200, batch_send_deadline: 500ms, min_backoff: 50ms, max_backoff: 1s}}
scrape_configs:
  - {{job_name: gone, static_configs: [{{targets: ["127.0.0.1:{gone}"]}}]}}
  - {{job_name: prometheus, static_configs: [{{targets: ["127.0.0.1:{self.port}"]}}]}}
{jobs}"""
        self.config.write_text(self.sound)
        command = [
            capture.BIN / "prometheus",
            "--log.level=debug",
            f"--config.file={self.config}",
            f"--storage.tsdb.path={directory / 'prometheus'}",
            "--storage.tsdb.min-block-duration=5s",
            "--storage.tsdb.max-block-duration=30s",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-lifecycle",
        ]
        super().__init__("prometheus", command, directory, lambda: stack.answers(f"{self.base}/-/ready"))

    def reload(self):
        """Reads a configuration again that is as it was, or wrong in one of some ways."""
        wrong = ["", "", "scrape_config: []\n", "rule_files: [\n", "global: {scrape_interval: soon}\n"]
        self.config.write_text(self.sound + random.choice(wrong))
        stack.fetch(f"{self.base}/-/reload", data=b"")


def main():
    with capture.directory() as directory, Targets() as targets:
        prometheus = Prometheus(directory, targets)
        with capture.running(prometheus):
            for n, _ in enumerate(capture.until(prometheus, 2_000_000, 75)):
                if n % 300 == 0:
                    prometheus.reload()
                if n % 50 == 0:
                    query = random.choice(["up", "sum(", "rate(shop_orders_total[1m])", "up * on (job) shop_orders_total"])
                    stack.fetch(f"{prometheus.base}/api/v1/query", query=query)
        capture.hand_over(prometheus, pathlib.Path(sys.argv[1]) / "prometheus.log")


main()
