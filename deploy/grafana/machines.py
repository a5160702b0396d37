"""Dashboards of the programs: a ground station, and an agent that can be scraped."""

from panels import (
    Column,
    GREEN,
    LINK,
    RED,
    UP_IS_GOOD,
    YELLOW,
    YES_IS_BAD,
    curves,
    dashboard,
    number,
    row,
    states,
    steps,
    table,
    variable,
    words,
)

SIGNALS = {"spans": "spans", "metric_points": "metric points", "log_records": "log records"}
PER = "[$__rate_interval]"


def rates(metric, labels, by):
    """Items a second of the three signals, (expression, legend) for each; `by` are labels that stay."""
    legend = " ".join("{{" + label + "}}" for label in by.split(", "))
    return [
        (f"sum by ({by}) (rate({metric}_{name}_total{{{labels}}}{PER}))", f"{legend} {says}") for name, says in SIGNALS.items()
    ]


def all_signals(metric, labels, by, window):
    """Items of all signals; signals that an exporter does not have have no series."""
    parts = [
        f'label_replace(sum by ({by}) (increase({metric}_{name}_total{{{labels}}}[{window}])), "signal", "{name}", "", "")'
        for name in SIGNALS
    ]
    return f"sum by ({by}) ({' or '.join(parts)})"


AT = 'station=~"$station"'
G = f'job="ground-station", {AT}'
NAME = "{{station}} {{exporter}}"
FILL = steps((0.5, YELLOW), (0.7, RED))
SOME_IS_BAD = steps((1, RED))
ROWS = "station, exporter"

GROUND_STATION = dashboard(
    "perigee-ground-station",
    "Perigee / Ground station",
    "Spool, exporters, link and the process itself.",
    [variable("station", "Station", "perigee_spool_max_bytes")],
    [
        number(
            "Stations",
            "Whether Prometheus reaches them.",
            f"up{{{G}}}",
            mappings=UP_IS_GOOD,
            legend="{{station}}",
            text="value_and_name",
            width=8,
        ),
        number(
            "Version",
            "The software that runs.",
            f"count by (station, version) (perigee_build_info{{{G}}})",
            legend="{{station}} {{version}}",
            text="name",
            width=8,
        ),
        number("Running for", "Since the start.", f"otelcol_process_uptime{{{G}}}", "s", legend="{{station}}", width=8),
        number(
            "Spool",
            "Used of its limit.",
            f"perigee_spool_used_bytes{{{AT}}} / perigee_spool_max_bytes{{{AT}}}",
            "percentunit",
            FILL,
            legend="{{station}}",
        ),
        number("Spool full", "Then links do not read.", f"max(perigee_spool_full{{{AT}}})", mappings=YES_IS_BAD),
        number("Spool fails", "It cannot be written.", f"max(perigee_spool_failing{{{AT}}})", mappings=YES_IS_BAD),
        number(
            "Spool put aside", "A damaged file since the start.", f"max(perigee_spool_quarantined{{{AT}}})", mappings=YES_IS_BAD
        ),
        number("Dead letters", "What no backend takes.", f"sum(perigee_spool_dead_letters{{{AT}}})", limits=SOME_IS_BAD),
        number("Open links", "With satellites.", f"sum(perigee_link_connections{{{AT}}})"),
        row("Exporters"),
        table(
            "Exporters",
            "Segments before each exporter's place, and what its backend did with the rest in the time shown.",
            ["station", "exporter"],
            [
                Column("queue", f"sum by ({ROWS}) (otelcol_exporter_queue_size{{{G}}})"),
                Column(
                    "queue of capacity",
                    f"sum by ({ROWS}) (otelcol_exporter_queue_size{{{G}}} / otelcol_exporter_queue_capacity{{{G}}})",
                    "percentunit",
                    FILL,
                ),
                Column("items taken", all_signals("otelcol_exporter_sent", G, ROWS, "$__range"), decimals=0),
                Column(
                    "requests sent again",
                    f"sum by ({ROWS}) (increase(perigee_exporter_retries_total{{{G}}}[$__range]))",
                    decimals=0,
                    limits=steps((1, YELLOW)),
                ),
                Column(
                    "items refused",
                    all_signals("otelcol_exporter_send_failed", G, ROWS, "$__range"),
                    decimals=0,
                    limits=SOME_IS_BAD,
                ),
                Column(
                    "items rejected",
                    all_signals("otelcol_exporter_rejected", G, ROWS, "$__range"),
                    decimals=0,
                    limits=SOME_IS_BAD,
                ),
            ],
            ("queue", True),
            height=7,
        ),
        curves(
            "Queues",
            "Segments before each exporter's place.",
            (f"sum by ({ROWS}) (otelcol_exporter_queue_size{{{G}}})", NAME),
            width=8,
        ),
        curves("Taken", "Items a second that backends took.", *rates("otelcol_exporter_sent", G, ROWS), unit="cps", width=8),
        curves(
            "Sent again",
            "Requests a second: the backend is down, slow, or refuses the exporter.",
            (f"sum by ({ROWS}) (rate(perigee_exporter_retries_total{{{G}}}{PER}))", NAME),
            unit="reqps",
            width=8,
        ),
        curves(
            "Refused for good",
            "Items a second that became dead letters.",
            *rates("otelcol_exporter_send_failed", G, ROWS),
            unit="cps",
            width=8,
        ),
        curves(
            "Rejected", "Items a second, by partial_success.", *rates("otelcol_exporter_rejected", G, ROWS), unit="cps", width=8
        ),
        curves("Dead letters", "Requests and segments.", (f"perigee_spool_dead_letters{{{AT}}}", "{{station}}"), width=8),
        curves(
            "Taken last",
            "How long ago each backend took a request; it grows without harm while there is nothing to send.",
            (f"time() - max by ({ROWS}) (perigee_exporter_last_success_timestamp_seconds{{{G}}})", NAME),
            unit="s",
            width=12,
        ),
        curves(
            "Alarms",
            "Raised in an hour, by name; docs/operations.md has the remedy of each.",
            (f"sum by (station, name) (increase(perigee_alarms_total{{{G}}}[1h]))", "{{station}} {{name}}"),
            width=12,
        ),
        row("Spool"),
        curves(
            "Used",
            "Segments, partials, dead letters.",
            (f"perigee_spool_used_bytes{{{AT}}}", "{{station}} used"),
            (f"perigee_spool_max_bytes{{{AT}}}", "{{station}} limit"),
            unit="bytes",
            width=8,
        ),
        curves(
            "File",
            "What it takes on the volume, its length, and what is kept for later segments.",
            (f"perigee_spool_file_bytes{{{AT}}}", "{{station}} on the volume"),
            (f"perigee_spool_file_length_bytes{{{AT}}}", "{{station}} length"),
            (f"perigee_spool_base_bytes{{{AT}}}", "{{station}} bases"),
            unit="bytes",
            width=8,
        ),
        curves("Segments", "Still to be exported.", (f"perigee_spool_segments{{{AT}}}", "{{station}}"), width=8),
        curves(
            "Items still to be exported",
            "By signal.",
            *(
                (f"sum by (station) (perigee_ground_in_spool_{n}{{{AT}}})", "{{station}} " + says)
                for n, says in SIGNALS.items()
            ),
            stack=True,
            width=8,
        ),
        curves(
            "Items committed",
            "All that came, by signal.",
            *(
                (f"sum by (station) (perigee_ground_committed_{n}{{{AT}}})", "{{station}} " + says)
                for n, says in SIGNALS.items()
            ),
            width=8,
        ),
        curves(
            "Items not exported for good",
            "Dead letters, and what this station lost.",
            *(
                (f"sum by (station) (perigee_ground_dead_lettered_{n}{{{AT}}})", "{{station}} dead " + says)
                for n, says in SIGNALS.items()
            ),
            *(
                (f"sum by (station) (perigee_ground_lost_{n}{{{AT}}})", "{{station}} lost " + says)
                for n, says in SIGNALS.items()
            ),
            width=8,
        ),
        row("Link"),
        curves(
            "Arriving",
            "Payload bytes.",
            (
                f"sum by (station, satellite) (rate(perigee_link_received_bytes_total{{{AT}}}{PER}))",
                "{{station}} {{satellite}}",
            ),
            unit="Bps",
            width=8,
        ),
        curves("Open links", "Now and then.", (f"perigee_link_connections{{{AT}}}", "{{station}}"), width=8),
        curves(
            "Refused peers", "In each interval.", (f"increase(perigee_link_refused_total{{{AT}}}{PER})", "{{station}}"), width=8
        ),
        curves(
            "Segments that came wrong",
            "In each interval.",
            (f"sum by (station) (increase(perigee_ground_hash_mismatches_total{{{AT}}}{PER}))", "{{station}} damaged"),
            (f"sum by (station) (increase(perigee_link_conflicts_total{{{AT}}}{PER}))", "{{station}} conflict"),
            (f"sum by (station) (increase(perigee_ground_duplicate_segments_total{{{AT}}}{PER}))", "{{station}} again"),
        ),
        states(
            "Revocation list cannot be used",
            "The last good one stays in force.",
            f"perigee_link_revocation_list_unusable{{{G}}}",
            "{{station}}",
            YES_IS_BAD,
            width=12,
            height=8,
        ),
        row("Process"),
        curves("Memory", "Resident.", (f"otelcol_process_memory_rss{{{G}}}", "{{station}}"), unit="bytes", width=8),
        curves("Running for", "A fall to 0 is a start.", (f"otelcol_process_uptime{{{G}}}", "{{station}}"), unit="s", width=8),
        curves(
            "Panics",
            "In an hour. Each is a bug; the log names the task.",
            (f"sum by (station) (increase(perigee_task_panics_total{{{G}}}[1h]))", "{{station}}"),
            width=8,
        ),
        curves(
            "Scrub",
            "Segments and bases compared with their hashes, a second, and found damaged in a day.",
            (f"rate(perigee_store_scrub_checked_total{{{G}}}{PER})", "{{station}} checked/s"),
            (f"increase(perigee_store_scrub_damaged_total{{{G}}}[1d])", "{{station}} damaged"),
            width=12,
        ),
        curves(
            "Connections closed",
            "Idle ones when places were short, and silent ones.",
            (f"increase(perigee_connections_closed_idle_total{{{G}}}{PER})", "{{station}} idle"),
            (f"increase(perigee_connections_closed_silent_total{{{G}}}{PER})", "{{station}} silent"),
            width=12,
        ),
    ],
)

OF = 'satellite=~"$satellite"'
S = f'job="space-agent", {OF}'
EACH = "{{satellite}}"
ON_BOARD = {"spans": "spans", "metric_points": "metric points", "log_records": "log records"}

AGENT = dashboard(
    "perigee-agent",
    "Perigee / Agent",
    "An agent that Prometheus can scrape: on the bench, a flat-sat, a host on Earth.",
    [variable("satellite", "Agent", "perigee_wal_max_bytes", of="satellite")],
    [
        number(
            "Agents",
            "Whether Prometheus reaches them.",
            f"up{{{S}}}",
            mappings=UP_IS_GOOD,
            legend=EACH,
            text="value_and_name",
            width=8,
        ),
        number(
            "Version",
            "The software that runs.",
            f"count by (satellite, version) (perigee_build_info{{{S}}})",
            legend="{{satellite}} {{version}}",
            text="name",
            width=8,
        ),
        number(
            "Link",
            "With a station.",
            f"perigee_link_connected{{{S}}}",
            mappings=LINK,
            legend=EACH,
            text="value_and_name",
            width=8,
        ),
        number(
            "Store",
            "Used of its limit.",
            f"perigee_wal_stored_bytes{{{S}}} / perigee_wal_max_bytes{{{S}}}",
            "percentunit",
            FILL,
            legend=EACH,
        ),
        number("Without a store", "Accepted into memory.", f"max(perigee_store_volatile{{{S}}})", mappings=YES_IS_BAD),
        number(
            "Memory pressure",
            "1: above the soft limit, 2: above the hard one.",
            f"max(perigee_memory_limiter_pressure{{{S}}})",
            limits=steps((1, YELLOW), (2, RED)),
        ),
        number("Clock cannot be right", "Any of these.", f"max(perigee_clock_untrusted{{{S}}})", mappings=YES_IS_BAD),
        number(
            "Accepted", "Items ever, restarts included.", " + ".join(f"sum(perigee_accepted_{n}_total{{{S}}})" for n in SIGNALS)
        ),
        number("Dropped", "Items ever, by any rule or damage.", f"sum(perigee_dropped_items_total{{{S}}})", limits=SOME_IS_BAD),
        row("Receivers"),
        curves(
            "Accepted",
            "Items a second.",
            *rates("otelcol_receiver_accepted", S, "satellite, receiver, transport"),
            unit="cps",
            width=8,
        ),
        curves(
            "Refused",
            "Items a second: the store is full or fails, or memory is short.",
            *rates("otelcol_receiver_refused", S, "satellite, receiver, transport"),
            unit="cps",
            width=8,
        ),
        curves(
            "Requests refused",
            "Before they were whole, not OTLP, and for want of memory; in each interval.",
            (
                f"sum by (satellite, signal) (increase(perigee_receiver_refused_requests_total{{{S}}}{PER}))",
                "{{satellite}} {{signal}} not whole",
            ),
            (
                f"sum by (satellite, signal) (increase(perigee_receiver_malformed_requests_total{{{S}}}{PER}))",
                "{{satellite}} {{signal}} malformed",
            ),
            (f"increase(otelcol_processor_memory_limiter_refused_requests_total{{{S}}}{PER})", "{{satellite}} no memory"),
            width=8,
        ),
        curves(
            "Commits",
            "Of the journal, requests in them, and syncs of its files, a second.",
            (f"rate(perigee_journal_commits_total{{{S}}}{PER})", "{{satellite}} commits"),
            (f"rate(perigee_store_syncs_total{{{S}}}{PER})", "{{satellite}} syncs"),
            (f"rate(perigee_journal_requests_total{{{S}}}{PER})", "{{satellite}} requests"),
            unit="ops",
            width=8,
        ),
        curves(
            "Memory",
            "Resident, and bodies of requests held.",
            (f"otelcol_process_memory_rss{{{S}}}", "{{satellite}} resident"),
            (f"perigee_memory_limiter_in_flight_bytes{{{S}}}", "{{satellite}} in flight"),
            unit="bytes",
            width=8,
        ),
        states(
            "Memory pressure",
            "Of the limiter.",
            f"perigee_memory_limiter_pressure{{{S}}}",
            EACH,
            words(v0=("none", GREEN), v1=("soft limit", YELLOW), v2=("hard limit", RED)),
            width=8,
            height=8,
        ),
        row("Store"),
        curves(
            "Stored",
            "Bytes that count against the budget, and what the file takes.",
            (f"perigee_wal_stored_bytes{{{S}}}", "{{satellite}} stored"),
            (f"perigee_wal_file_bytes{{{S}}}", "{{satellite}} file"),
            (f"perigee_wal_max_bytes{{{S}}}", "{{satellite}} limit"),
            unit="bytes",
            width=8,
        ),
        curves(
            "Segments by lane",
            "Payload bytes on board.",
            (f"perigee_lane_segment_bytes{{{S}}}", "{{satellite}} lane {{lane}}"),
            unit="bytes",
            stack=True,
            width=8,
        ),
        curves(
            "Items on board",
            "In the journal and in segments.",
            *((f"sum by (satellite) (perigee_on_board_{n}{{{S}}})", "{{satellite}} " + says) for n, says in ON_BOARD.items()),
            stack=True,
            width=8,
        ),
        curves("Not in a segment yet", "Journal bytes.", (f"perigee_wal_unsealed_bytes{{{S}}}", EACH), unit="bytes", width=8),
        curves("Items not in a segment yet", "In the journal.", (f"perigee_wal_unsealed_items{{{S}}}", EACH), width=8),
        curves(
            "Segments",
            "On board, and sealed in each interval.",
            (f"perigee_wal_segments{{{S}}}", "{{satellite}} on board"),
            (f"increase(perigee_segments_sealed_total{{{S}}}{PER})", "{{satellite}} sealed"),
            width=8,
        ),
        curves(
            "Sealed bytes on board", "Payload of segments.", (f"perigee_wal_segment_bytes{{{S}}}", EACH), unit="bytes", width=8
        ),
        curves(
            "Dropped",
            "Items in an hour, by reason.",
            (
                f"sum by (satellite, signal, reason) (increase(perigee_dropped_items_total{{{S}}}[1h])) > 0",
                "{{satellite}} {{signal}} {{reason}}",
            ),
            width=8,
        ),
        curves(
            "Delivered",
            "Items that every consumer has passed, ever.",
            *(
                (f"sum by (satellite) (perigee_delivered_{n}_total{{{S}}})", "{{satellite}} " + says)
                for n, says in SIGNALS.items()
            ),
            width=8,
        ),
        states(
            "Store fails",
            "It cannot be written, and requests are refused.",
            f"perigee_store_failing{{{S}}}",
            EACH,
            YES_IS_BAD,
            width=12,
            height=7,
        ),
        curves(
            "Alarms",
            "Raised in an hour, by name; docs/operations.md has the remedy of each.",
            (f"sum by (satellite, name) (increase(perigee_alarms_total{{{S}}}[1h]))", "{{satellite}} {{name}}"),
            width=12,
            height=7,
        ),
        states(
            "Without a store",
            "Requests are accepted into memory.",
            f"perigee_store_volatile{{{S}}}",
            EACH,
            YES_IS_BAD,
            width=8,
            height=7,
        ),
        curves(
            "Accepted into memory",
            "Items since the start, while the store was gone.",
            *(
                (f"sum by (satellite) (perigee_store_volatile_accepted_{n}_total{{{S}}})", "{{satellite}} " + says)
                for n, says in SIGNALS.items()
            ),
            width=8,
            height=7,
        ),
        curves(
            "Scrub",
            "Compared a second, and found damaged in a day.",
            (f"rate(perigee_store_scrub_checked_total{{{S}}}{PER})", "{{satellite}} checked/s"),
            (f"increase(perigee_store_scrub_damaged_total{{{S}}}[1d])", "{{satellite}} damaged"),
            width=8,
            height=7,
        ),
        row("Link"),
        states("Link", "With a station.", f"perigee_link_connected{{{S}}}", EACH, LINK, width=24, height=5),
        curves(
            "Sent",
            "Payload, of it again, and everything in UDP.",
            (f"rate(perigee_link_sent_bytes_total{{{S}}}{PER})", "{{satellite}} payload"),
            (f"rate(perigee_link_resent_bytes_total{{{S}}}{PER})", "{{satellite}} again"),
            (f"rate(perigee_link_udp_sent_bytes_total{{{S}}}{PER})", "{{satellite}} UDP out"),
            (f"rate(perigee_link_udp_received_bytes_total{{{S}}}{PER})", "{{satellite}} UDP in"),
            unit="Bps",
            width=8,
        ),
        curves(
            "Lost",
            "Share of the UDP bytes that QUIC took to be lost.",
            (
                f"rate(perigee_link_lost_bytes_total{{{S}}}{PER}) / (rate(perigee_link_udp_sent_bytes_total{{{S}}}{PER}) > 0)",
                EACH,
            ),
            unit="percentunit",
            width=8,
            points="always",
        ),
        curves(
            "Connections",
            "Came up and failed, and segments that the ground committed; in each interval.",
            (f"increase(perigee_link_connections_total{{{S}}}{PER})", "{{satellite}} came up"),
            (f"increase(perigee_link_failed_attempts_total{{{S}}}{PER})", "{{satellite}} failed"),
            (f"increase(perigee_link_committed_segments_total{{{S}}}{PER})", "{{satellite}} segments"),
            width=8,
        ),
        states(
            "Revocation list cannot be used",
            "The last good one stays in force.",
            f"perigee_link_revocation_list_unusable{{{S}}}",
            EACH,
            YES_IS_BAD,
            width=8,
            height=7,
        ),
        states(
            "Clock cannot be right",
            "It expires nothing then.",
            f"perigee_clock_untrusted{{{S}}}",
            EACH,
            YES_IS_BAD,
            width=8,
            height=7,
        ),
        curves(
            "Clock",
            "Less that of the station that was heard last, and by how much that may be wrong.",
            (f"perigee_clock_offset_seconds{{{S}}}", "{{satellite}} offset"),
            (f"perigee_clock_offset_error_seconds{{{S}}}", "{{satellite}} may be wrong by"),
            unit="s",
            least=None,
            width=8,
            height=7,
        ),
        row("Exporters of its own"),
        curves(
            "Queue",
            "Sealed segments on board, which exporters share, of those that the store would hold.",
            (f"otelcol_exporter_queue_size{{{S}}} / otelcol_exporter_queue_capacity{{{S}}}", "{{satellite}} {{exporter}}"),
            unit="percentunit",
            width=8,
        ),
        curves("Taken", "Items a second.", *rates("otelcol_exporter_sent", S, "satellite, exporter"), unit="cps", width=8),
        curves(
            "Refused for good and rejected",
            "Items a second.",
            *rates("otelcol_exporter_send_failed", S, "satellite, exporter"),
            *rates("otelcol_exporter_rejected", S, "satellite, exporter"),
            unit="cps",
            width=8,
        ),
        curves(
            "Sent again",
            "Requests a second.",
            (f"rate(perigee_exporter_retries_total{{{S}}}{PER})", "{{satellite}} {{exporter}}"),
            unit="reqps",
            width=8,
            height=7,
        ),
        curves(
            "Panics",
            "In an hour. Each is a bug; the log names the task.",
            (f"sum by (satellite) (increase(perigee_task_panics_total{{{S}}}[1h]))", EACH),
            width=8,
            height=7,
        ),
        curves(
            "Connections closed",
            "Idle ones when places were short, and silent ones.",
            (f"increase(perigee_connections_closed_idle_total{{{S}}}{PER})", "{{satellite}} idle"),
            (f"increase(perigee_connections_closed_silent_total{{{S}}}{PER})", "{{satellite}} silent"),
            width=8,
            height=7,
        ),
    ],
)
