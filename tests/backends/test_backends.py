"""From the OpenTelemetry SDK through agent and ground to Jaeger, Prometheus and a file, asked through their own APIs.

Run by tests/backends.sh. Contacts are opened by hand, so that everything is recorded while there is none.
"""

import contextlib
import dataclasses
import json
import time
from pathlib import Path

import pytest
from client import COUNTER, Client, SentSpan, Service, grpc_exporters, http_exporters
from stack import SATELLITE, STATION, fetch, get_json

SERIES = "perigee_test_orders_total"  # what Prometheus makes of the counter's name
REQUESTS = 10
ADDED = {"front-a": [3, 4, 5], "front-b": [10, 0, 7, 1], "backend": [100]}
WHERE = {"satellite.id": SATELLITE, "ground.station.id": STATION}
DAY = 86_400


@dataclasses.dataclass
class Flight:
    """What was sent while there was no contact, by whom and when."""

    client: Client
    over_http: Service
    requests: list[str]
    spans: list[SentSpan]
    start_s: float
    contact_s: float


def spans_of(found):
    """The spans of a trace in Jaeger's answer, as the client describes them."""
    services = {key: process["serviceName"] for key, process in found["processes"].items()}
    for span in found["spans"]:
        parents = [r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"]
        yield (
            span["traceID"], span["spanID"], parents[0] if parents else None,
            services[span["processID"]], span["operationName"], span["startTime"], span["duration"],
        )


def jaeger_has(stack, spans, start_s, end_s):
    """Jaeger holds the traces of these spans, whole and unchanged: its answer by trace id."""
    sent = {}
    for span in spans:
        sent.setdefault(span.trace_id, []).append(dataclasses.astuple(span))
    found = {}
    for service in {span.service for span in spans}:
        found |= stack.jaeger.traces(service, int(start_s * 1e6), int(end_s * 1e6) + 1)
    assert sent
    for trace_id, expected in sent.items():
        arrived = sorted(spans_of(found[trace_id]), key=str) if trace_id in found else []
        assert arrived == sorted(expected, key=str)
    return {trace_id: found[trace_id] for trace_id in sent}


def samples(stack, service, start_s, end_s):
    """Every stored sample of a service's counter in a time range: its series' labels and [(time in ms, value)]."""
    result = stack.prometheus.query(f'{SERIES}{{job="{service}"}}[{int(end_s - start_s) + 2}s]', end_s)
    assert len(result) <= 1, result
    return [(series["metric"], within(sample_times(series), start_s, end_s)) for series in result]


def sample_times(series):
    return [(round(float(at) * 1000), float(value)) for at, value in series["values"]]


def within(points, start_s, end_s):
    """The points, (time in ms, value), of a time range."""
    return [point for point in points if int(start_s * 1000) <= point[0] <= end_s * 1000]


def prometheus_has(stack, service, start_s, end_s):
    """The service's counter holds exactly the acknowledged points of a time range."""
    sent = within(service.sent_points, start_s, end_s)
    assert sent
    found = samples(stack, service.name, start_s, end_s)
    assert [points for _, points in found] == [sent], f"{service.name}: sent {sent}"
    return found[0][0]


def log_records(stack, services):
    """The log records of some services in the file: (service, resource attributes, record)."""
    if not stack.ground.logs.exists():
        return
    *whole_lines, _ = stack.ground.logs.read_text().split("\n")
    for line in whole_lines:
        for resource_logs in json.loads(line)["resourceLogs"]:
            attributes = {a["key"]: a["value"].get("stringValue") for a in resource_logs["resource"]["attributes"]}
            service = attributes.get("service.name")
            records = (r for scope_logs in resource_logs["scopeLogs"] for r in scope_logs["logRecords"])
            if service in services:
                yield from ((service, attributes, record) for record in records)


def file_has(stack, sent):
    """The file holds each of the logs once."""
    found = [
        (service, record["body"]["stringValue"], int(record["timeUnixNano"]), record["traceId"])
        for service, _, record in log_records(stack, {log.service for log in sent})
    ]
    for log in sent:
        times = found.count((log.service, log.body, log.time_ns, log.trace_id))
        assert times == 1, f"{log}: {times} times in the file of {len(found)} records"


def nothing_arrived(stack, names):
    """Neither backend nor file knows anything of the services."""
    assert not stack.jaeger.services() & set(names)
    assert not any(samples(stack, name, time.time() - 3600, time.time() + 1) for name in names)
    assert not list(log_records(stack, names))


@pytest.fixture(scope="module")
def flight(stack):
    """Everything of one orbit, recorded without a contact and then delivered in one."""
    start_s = time.time()
    client = Client(lambda: grpc_exporters(stack.agent.grpc))
    over_http = Service("over-http", http_exporters(stack.agent.http))
    requests = [client.user_request(number) for number in range(REQUESTS)]
    client.flush()
    for service in client.services:
        for amount in ADDED[service.name]:
            service.count(amount)
    span = over_http.span("over http")
    over_http.log("over http", span)
    span.end()
    over_http.count(1)
    over_http.flush()
    contact_s = time.time()
    spans = client.spans(*requests)
    everyone = [*client.services, over_http]
    nothing_arrived(stack, [service.name for service in everyone])

    def delivered():
        jaeger_has(stack, spans + over_http.sent_spans, start_s, contact_s)
        for service in everyone:
            prometheus_has(stack, service, start_s, contact_s)
            file_has(stack, service.sent_logs)

    # What is still missing at the deadline is for the tests to tell, each for its part.
    with stack.agent.contact(), contextlib.suppress(AssertionError):
        stack.eventually(delivered)
    yield Flight(client, over_http, requests, spans, start_s, contact_s)
    client.shutdown()
    over_http.shutdown()


def test_a_user_request_is_one_trace_over_three_services(stack, flight):
    found = jaeger_has(stack, flight.spans, flight.start_s, flight.contact_s)
    assert set(found) == set(flight.requests)
    for each in found.values():
        assert len(each["spans"]) == 5
        assert {process["serviceName"] for process in each["processes"].values()} == set(ADDED)


def test_traces_say_which_satellite_and_which_station(stack, flight):
    for found in jaeger_has(stack, flight.spans, flight.start_s, flight.contact_s).values():
        for process in found["processes"].values():
            tags = {tag["key"]: tag["value"] for tag in process["tags"]}
            assert WHERE.items() <= tags.items()


def test_counters_have_the_values_and_timestamps_of_the_time_without_contact(stack, flight):
    for service in flight.client.services:
        totals = [sum(ADDED[service.name][:count + 1]) for count in range(len(ADDED[service.name]))]
        assert [value for _, value in service.sent_points] == totals
        labels = prometheus_has(stack, service, flight.start_s, flight.contact_s)
        assert labels["satellite_id"] == SATELLITE
        assert labels["ground_station_id"] == STATION
        for at_ms, value in service.sent_points:
            assert int(flight.start_s * 1000) <= at_ms <= flight.contact_s * 1000
            (series,) = stack.prometheus.query_range(f'{SERIES}{{job="{service.name}"}}', at_ms / 1000, at_ms / 1000, 1)
            assert series["values"] == [[at_ms / 1000, str(value)]]


def test_the_satellites_own_state_is_in_prometheus(stack):
    def used():
        expression = f'last_over_time(system_memory_usage_bytes{{state="used",satellite_id="{SATELLITE}"}}[5m])'
        found = stack.prometheus.query(expression, time.time())
        assert len(found) == 1, found
        return float(found[0]["value"][1])

    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(meminfo["MemTotal"].split()[0]) * 1024
    with stack.agent.contact():
        assert 0 < stack.eventually(used) < total


def test_logs_are_in_the_file_once_with_their_own_time(stack, flight):
    sent = flight.client.backend.sent_logs
    assert [log.trace_id for log in sent] == flight.requests
    file_has(stack, sent)
    for _, attributes, record in log_records(stack, ["backend"]):
        assert WHERE.items() <= attributes.items()
        assert record["severityText"] == "WARN"


def test_what_came_over_http_with_protobuf_arrives_like_the_rest(stack, flight):
    assert len(flight.over_http.sent_spans) == len(flight.over_http.sent_logs) == 1
    jaeger_has(stack, flight.over_http.sent_spans, flight.start_s, flight.contact_s)
    prometheus_has(stack, flight.over_http, flight.start_s, flight.contact_s)
    file_has(stack, flight.over_http.sent_logs)


def test_what_came_over_http_with_json_arrives_like_the_rest(stack):
    start_ns = time.time_ns()
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "over-json"}}]}
    trace_id, span_id = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"
    span = {
        "traceId": trace_id, "spanId": span_id, "name": "over json", "kind": 2,
        "startTimeUnixNano": str(start_ns), "endTimeUnixNano": start_ns + 5_000_000,
    }
    point = {"startTimeUnixNano": str(start_ns), "timeUnixNano": str(start_ns), "asInt": "42"}
    counter = {"name": COUNTER, "sum": {"dataPoints": [point], "aggregationTemporality": 2, "isMonotonic": True}}
    for path, body in (
        ("traces", {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}),
        ("metrics", {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [counter]}]}]}),
    ):
        headers = {"content-type": "application/json"}
        url = f"http://127.0.0.1:{stack.agent.http}/v1/{path}"
        status, answer = fetch(url, json.dumps(body).encode(), headers)
        assert (status, json.loads(answer)) == (200, {})
    end_s = time.time() + 1
    nothing_arrived(stack, ["over-json"])

    def delivered():
        sent = SentSpan(trace_id, span_id, None, "over-json", "over json", start_ns // 1000, 5000)
        jaeger_has(stack, [sent], start_ns / 1e9 - 1, end_s)
        points = [points for _, points in samples(stack, "over-json", start_ns / 1e9 - 1, end_s)]
        assert points == [[(start_ns // 1_000_000, 42)]]

    with stack.agent.contact():
        stack.eventually(delivered)


def test_data_that_is_a_day_late_keeps_its_own_time_beside_newer_data(stack, flight):
    client = flight.client
    client.be_late(DAY + 3600)
    start_s = time.time() - DAY - 3600
    trace_id = client.user_request(REQUESTS)
    client.flush()
    for service in client.services:
        service.count(1)
    end_s = time.time() - DAY - 3600
    client.be_late(0)

    def delivered():
        jaeger_has(stack, client.spans(trace_id), start_s, end_s)
        for service in client.services:
            prometheus_has(stack, service, start_s, end_s)
        file_has(stack, client.backend.sent_logs)

    with stack.agent.contact():
        stack.eventually(delivered)
    for service in client.services:
        prometheus_has(stack, service, flight.start_s, flight.contact_s)


def test_a_backend_that_is_down_during_the_contact_gets_everything_later(stack, flight):
    service = flight.client.front_a
    start_s = time.time()
    for amount in (1, 2, 3):
        service.count(amount)
    trace_id = flight.client.user_request(REQUESTS + 1)
    flight.client.flush()
    end_s = time.time()
    stack.prometheus.stop()
    with stack.agent.contact():
        stack.eventually(lambda: jaeger_has(stack, flight.client.spans(trace_id), start_s, end_s))
        stack.prometheus.start()
        stack.eventually(lambda: prometheus_has(stack, service, start_s, end_s))


def test_status_and_the_ground_api_answer_in_json(stack, flight):
    assert flight.spans
    assert SATELLITE in json.dumps(stack.agent.status())
    assert SATELLITE in json.dumps(get_json(f"{stack.ground.api}/api/v1/satellites"))
