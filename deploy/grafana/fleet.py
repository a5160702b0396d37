"""Dashboards of satellites: the fleet, one satellite, a pass. All of it is what ground stations know."""

from panels import (
    Column,
    GREEN,
    LINK,
    RED,
    YELLOW,
    YES_IS_BAD,
    curves,
    dashboard,
    delays,
    number,
    row,
    states,
    steps,
    table,
    variable,
)

STATION = variable("station", "Station", "perigee_spool_max_bytes")
SATELLITES = variable("satellite", "Satellite", 'perigee_satellite_connected{station=~"$station"}')
LANE = variable("lane", "Lane", 'satellite_lane:perigee_backlog_bytes:last{satellite=~"$satellite"}')
OF = 'satellite=~"$satellite"'
AT = 'satellite=~"$satellite", station=~"$station"'
IN = 'satellite=~"$satellite", lane=~"$lane"'
BOTH = "satellite, station"
LATEST = "on (satellite, instance) satellite:perigee_heard_last:timestamp_seconds"
FIRING = 'ALERTS{alertname=~"Perigee.*", alertstate="firing"}'


def latest(metric, by="satellite"):
    """What the station that heard a satellite last knows of it."""
    return f"max by ({by}) (perigee_satellite_{metric}{{{OF}}} and {LATEST})"


def heard_ago(by="satellite"):
    return f"time() - max by ({by}) (perigee_satellite_last_heard_timestamp_seconds{{{AT}}})"


def until(metric):
    return f"{latest(metric)} - time()"


def items(what, by, labels=AT, gauge=True):
    """Items of all signals together."""
    names = ("spans", "metric_points", "log_records")
    return " + ".join(f"sum by ({by}) (perigee_ground_{what}_{name}{{{labels}}})" for name in names)


def gaps(by):
    """Items in gaps. A satellite tells each station of its drops, so stations are not added up."""
    return f"max by ({by}) (satellite:perigee_gap_items:sum{{{AT}}})"


def by_signal(what, labels=AT, change=None):
    """(expression, legend) for each signal; `change`: what was added in this time."""
    inner = "perigee_ground_{}_{}{{{}}}" if not change else "delta(perigee_ground_{}_{}{{{}}}[" + change + "])"
    names = {"spans": "spans", "metric_points": "metric points", "log_records": "log records"}
    return [(f"sum({inner.format(what, name, labels)})", says) for name, says in names.items()]


AGE = steps((6 * 3600, YELLOW), (12 * 3600, RED))
FILL = steps((0.6, YELLOW), (0.8, RED))
REACHED = steps((0.5, YELLOW), (0.8, GREEN), base=RED)
ENDS = steps((7 * 86400, YELLOW), (30 * 86400, GREEN), base=RED)
SOME_IS_BAD = steps((1, RED))
P95 = "histogram_quantile(0.95, sum by ({by}, le) (increase(perigee_delivery_delay_seconds_bucket{{{labels}}}[$__range])))"
OVER = "histogram_quantile({q}, sum by ({by}, le) (rate(perigee_delivery_delay_seconds_bucket{{{labels}}}[$__rate_interval])))"
SEE = "/d/perigee-satellite?var-satellite=${__data.fields.satellite}&${__url_time_range}"

FLEET = dashboard(
    "perigee-fleet",
    "Perigee / Fleet",
    "Is everything healthy, and who needs somebody?",
    [STATION, SATELLITES],
    [
        number(
            "Satellites",
            "Ever heard by one of these stations.",
            f"count(count by (satellite) (perigee_satellite_connected{{{AT}}}))",
        ),
        number("In contact", "With an open link now.", f"sum(satellite:perigee_connected:max{{{OF}}})"),
        number(
            "Silent for 12 h",
            "No station has heard them since.",
            f"count({heard_ago()} > 12 * 3600) or vector(0)",
            limits=SOME_IS_BAD,
        ),
        number(
            "Waiting on board",
            "As of each satellite's last contact.",
            f"sum(satellite_lane:perigee_backlog_bytes:last{{{OF}}})",
            "bytes",
        ),
        number(
            "Items in gaps",
            "Items that are known to exist and will not come.",
            f"sum({gaps('satellite, reason')}) or vector(0)",
            limits=SOME_IS_BAD,
        ),
        number(
            "Alerts", "Firing now; each has a runbook in docs/alerts.md.", f"count({FIRING}) or vector(0)", limits=SOME_IS_BAD
        ),
        table(
            "Satellites",
            "Those with the most alerts first. What a satellite has not said is empty.",
            ["satellite"],
            [
                Column(
                    "alerts",
                    f'count by (satellite) (ALERTS{{alertname=~"Perigee.*", alertstate="firing", satellite!="", {OF}}})',
                    limits=SOME_IS_BAD,
                ),
                Column("link", f"max by (satellite) (satellite:perigee_connected:max{{{OF}}})", mappings=LINK),
                Column("heard ago", heard_ago(), "s", AGE),
                Column("next contact in", until("next_contact_timestamp_seconds"), "s", steps((0, GREEN), base=RED)),
                Column("waiting", f"sum by (satellite) (satellite_lane:perigee_backlog_bytes:last{{{OF}}})", "bytes"),
                Column(
                    "oldest waits",
                    f"max by (satellite) (satellite_lane:perigee_backlog_age_seconds:last{{{OF}}})",
                    "s",
                    steps((12 * 3600, YELLOW), (24 * 3600, RED)),
                ),
                Column("store", f"max by (satellite) (satellite:perigee_store_fill:last{{{OF}}})", "percentunit", FILL),
                Column("store full in", until("store_full_timestamp_seconds"), "s", steps((86400, YELLOW), base=RED)),
                Column("last pass", latest("last_pass_fill_ratio"), "percentunit", REACHED),
                Column("clock off by", latest("clock_offset_seconds"), "s", decimals=3),
                Column("certificate ends in", until("certificate_expiry_timestamp_seconds"), "s", ENDS),
                Column("items in gaps", f"sum by (satellite) ({gaps('satellite, reason')})", limits=SOME_IS_BAD),
            ],
            ("alerts", True),
            height=9,
            links=[("satellite", "This satellite", SEE)],
        ),
        states(
            "Links",
            "When each satellite had a link with any station.",
            f"satellite:perigee_connected:max{{{OF}}}",
            "{{satellite}}",
            LINK,
        ),
        curves(
            "Waiting on board",
            "As of each satellite's last contact, less what was committed since.",
            (f"sum by (satellite) (satellite_lane:perigee_backlog_bytes:last{{{OF}}})", "{{satellite}}"),
            unit="bytes",
        ),
        curves(
            "Arriving",
            "Payload bytes over the link.",
            (f"sum by (satellite) (rate(perigee_link_received_bytes_total{{{AT}}}[$__rate_interval]))", "{{satellite}}"),
            unit="Bps",
        ),
        curves(
            "Delivery delay, 95 %",
            "From sealing on board to the commit here; a wrong clock on board shows in it.",
            (OVER.format(q=0.95, by="satellite", labels=AT), "{{satellite}}"),
            unit="s",
            points="always",
        ),
        curves(
            "Stores on board",
            "Above 80 % the limit is near.",
            (f"satellite:perigee_store_fill:last{{{OF}}}", "{{satellite}}"),
            unit="percentunit",
            limits=steps((0.8, RED)),
        ),
        curves(
            "Items in gaps", "Items that will not come, by reason.", (gaps("satellite, reason"), "{{satellite}} {{reason}}")
        ),
        curves("Items committed", "All signals.", (items("committed", "satellite"), "{{satellite}}")),
        table(
            "Alerts firing",
            "The runbook of each is docs/alerts.md.",
            ["alertname", "severity", "satellite", "station", "instance"],
            [Column("firing", FIRING)],
            ("severity", False),
            hide=("__name__", "alertstate", "job", "firing", "Value"),
        ),
    ],
)

NAME = "{{satellite}}"
ONE = [STATION, SATELLITES, LANE]
SATELLITE = dashboard(
    "perigee-satellite",
    "Perigee / Satellite",
    "How one satellite stands: contacts, what is on board, what is missing, its agent.",
    ONE,
    [
        number("Link", "With any station, now.", f"satellite:perigee_connected:max{{{OF}}}", mappings=LINK, legend=NAME),
        number("Heard ago", "By any of these stations.", heard_ago(), "s", AGE, legend=NAME),
        number(
            "Next contact in",
            "By the satellite's own plan; red when it has passed.",
            until("next_contact_timestamp_seconds"),
            "s",
            steps((0, GREEN), base=RED),
            empty="no plan",
            legend=NAME,
        ),
        number(
            "Last pass",
            "Bytes gained against what its plan can carry.",
            latest("last_pass_fill_ratio"),
            "percentunit",
            REACHED,
            empty="no plan",
            legend=NAME,
        ),
        number(
            "Store full in",
            "A forecast, if its plan holds.",
            until("store_full_timestamp_seconds"),
            "s",
            steps((86400, YELLOW), base=RED),
            empty="not forecast",
            legend=NAME,
        ),
        number(
            "Certificate ends in",
            "Then every station refuses it.",
            until("certificate_expiry_timestamp_seconds"),
            "s",
            ENDS,
            legend=NAME,
        ),
        row("Contacts"),
        states(
            "Links",
            "By station.",
            f"max by (satellite, station) (perigee_satellite_connected{{{AT}}})",
            "{{satellite}} {{station}}",
            LINK,
            height=5,
        ),
        curves(
            "Arriving",
            "Payload bytes over the link.",
            (
                f"sum by (satellite, station) (rate(perigee_link_received_bytes_total{{{AT}}}[$__rate_interval]))",
                "{{satellite}} {{station}}",
            ),
            unit="Bps",
        ),
        curves(
            "Last pass against its plan",
            "One point each pass: bytes gained over those that the plan says it can carry.",
            (latest("last_pass_fill_ratio"), "{{satellite}}"),
            unit="percentunit",
            limits=steps((0.5, RED)),
        ),
        curves(
            "Gained in the last pass",
            "Bytes, one value each pass.",
            (latest("last_pass_held_bytes"), "{{satellite}}"),
            unit="bytes",
            width=8,
        ),
        curves(
            "From AOS to the link",
            "How long the last pass took to connect.",
            (latest("last_pass_connect_seconds"), "{{satellite}}"),
            unit="s",
            width=8,
        ),
        curves(
            "Lost in the last pass",
            "Packets lost of those sent.",
            (latest("last_pass_loss_ratio"), "{{satellite}}"),
            unit="percentunit",
            limits=steps((0.05, RED)),
            width=8,
        ),
        row("On board"),
        curves(
            "Waiting, bytes",
            "By lane, as of the last contact, less what was committed since.",
            (f"satellite_lane:perigee_backlog_bytes:last{{{IN}}}", "{{satellite}} lane {{lane}}"),
            unit="bytes",
            stack=True,
            width=8,
        ),
        curves(
            "Waiting, items",
            "By lane.",
            (f"satellite_lane:perigee_backlog_items:last{{{IN}}}", "{{satellite}} lane {{lane}}"),
            stack=True,
            width=8,
        ),
        curves(
            "Waiting since",
            "For how long the oldest of each lane has waited.",
            (f"satellite_lane:perigee_backlog_age_seconds:last{{{IN}}}", "{{satellite}} lane {{lane}}"),
            unit="s",
            width=8,
        ),
        curves(
            "Store",
            "What it holds and what it may hold.",
            (latest("store_bytes"), "{{satellite}} stored"),
            (latest("store_max_bytes"), "{{satellite}} limit"),
            unit="bytes",
        ),
        curves(
            "Unfinished segments here",
            "Held of segments that are not whole yet.",
            (f"max by (satellite, station) (perigee_satellite_partial_bytes{{{AT}}})", "{{satellite}} {{station}}"),
            unit="bytes",
        ),
        row("Delivery"),
        curves(
            "Delay by signal",
            "From sealing on board to the commit here.",
            (OVER.format(q=0.5, by="signal", labels=AT), "{{signal}} 50 %"),
            (OVER.format(q=0.95, by="signal", labels=AT), "{{signal}} 95 %"),
            unit="s",
            points="always",
            width=8,
        ),
        curves(
            "Delay by lane, 95 %",
            "Urgent lanes are those with small numbers.",
            (OVER.format(q=0.95, by="lane", labels=f'{AT}, lane=~"$lane"'), "lane {{lane}}"),
            unit="s",
            points="always",
            width=8,
        ),
        delays(
            "Delays",
            "How many segments took how long.",
            f"sum by (le) (increase(perigee_delivery_delay_seconds_bucket{{{AT}}}[$__rate_interval]))",
            width=8,
        ),
        curves("Committed", "Items in the ledger.", *by_signal("committed"), width=8),
        curves("Still to be exported", "Items in the spool.", *by_signal("in_spool"), stack=True, width=8),
        curves("Exported", "Items that every exporter of their pipeline is done with.", *by_signal("exported"), width=8),
        row("Missing"),
        curves(
            "Gaps",
            "Items that will not come, by reason.",
            (
                f"max by (satellite, signal, reason) (perigee_satellite_gap_items{{{AT}}}) > 0",
                "{{satellite}} {{signal}} {{reason}}",
            ),
            width=8,
        ),
        curves(
            "Number of gaps",
            "By reason, also of those whose items nobody could count.",
            (f"max by (satellite, reason) (perigee_satellite_gaps{{{AT}}})", "{{satellite}} {{reason}}"),
            width=8,
        ),
        curves(
            "Dropped on board and lost here",
            "Items.",
            (items("dropped", BOTH), "{{satellite}} {{station}} dropped"),
            (items("lost", BOTH), "{{satellite}} {{station}} lost"),
            (items("dead_lettered", BOTH), "{{satellite}} {{station}} dead letters"),
            width=8,
        ),
        curves(
            "Segments that came wrong",
            "Came again, damaged, or under the name of another, in an hour.",
            (f"sum by (satellite) (increase(perigee_ground_duplicate_segments_total{{{AT}}}[1h]))", "{{satellite}} again"),
            (f"sum by (satellite) (increase(perigee_ground_hash_mismatches_total{{{AT}}}[1h]))", "{{satellite}} damaged"),
            (f"sum by (satellite) (increase(perigee_link_conflicts_total{{{AT}}}[1h]))", "{{satellite}} conflict"),
            width=8,
        ),
        row("Agent and clock, as it last said"),
        curves(
            "Memory of the agent",
            "Resident, and what the limiter allows.",
            (latest("memory_rss_bytes"), "{{satellite}} resident"),
            (latest("memory_limit_bytes"), "{{satellite}} limit"),
            unit="bytes",
            width=8,
        ),
        curves(
            "Clock",
            "The satellite's wall clock less the station's, and by how much that may be wrong.",
            (latest("clock_offset_seconds"), "{{satellite}} offset"),
            (latest("clock_offset_error_seconds"), "{{satellite}} may be wrong by"),
            unit="s",
            least=None,
            width=8,
        ),
        curves(
            "Drift",
            "By how much its clock gains, in parts per million.",
            (latest("clock_drift_ppm"), "{{satellite}}"),
            unit="ppm",
            least=None,
            width=4,
        ),
        states(
            "Clock cannot be right",
            "By its own word.",
            latest("clock_untrusted"),
            "{{satellite}}",
            YES_IS_BAD,
            width=4,
            height=8,
        ),
    ],
)

PASS = dashboard(
    "perigee-pass",
    "Perigee / Pass",
    "What this pass brings, and what the last one did.",
    ONE,
    [
        number("Open links", "At these stations.", 'sum(perigee_link_connections{station=~"$station"})'),
        number(
            "Next contact in",
            "The first of these satellites, by its own plan.",
            f"min(({until('next_contact_timestamp_seconds')}) > 0)",
            "s",
            empty="none planned",
        ),
        number(
            "Arrived",
            "Payload bytes in the time shown.",
            f"sum(increase(perigee_link_received_bytes_total{{{AT}}}[$__range]))",
            "bytes",
        ),
        number(
            "Segments committed",
            "In the time shown.",
            f"sum(increase(perigee_ground_segments_total{{{AT}}}[$__range]))",
            decimals=0,
        ),
        number(
            "Last pass",
            "The worst of these satellites: bytes gained against its plan.",
            f"min({latest('last_pass_fill_ratio')})",
            "percentunit",
            REACHED,
            empty="no plan",
        ),
        number(
            "Delivery delay, 95 %",
            "Of what was committed in the time shown.",
            "max(" + P95.format(by="satellite", labels=AT) + ")",
            "s",
        ),
        states(
            "Links",
            "Each satellite with each station.",
            f"max by (satellite, station) (perigee_satellite_connected{{{AT}}})",
            "{{satellite}} {{station}}",
            LINK,
        ),
        curves(
            "Arriving",
            "Payload bytes over the link.",
            (
                f"sum by (satellite, station) (rate(perigee_link_received_bytes_total{{{AT}}}[$__rate_interval]))",
                "{{satellite}} {{station}}",
            ),
            unit="Bps",
        ),
        curves(
            "Waiting on board",
            "By lane; it falls as segments are committed.",
            (f"satellite_lane:perigee_backlog_bytes:last{{{IN}}}", "{{satellite}} lane {{lane}}"),
            unit="bytes",
        ),
        curves("Items committed", "In each interval.", *by_signal("committed", change="$__rate_interval"), stack=True, width=8),
        curves(
            "Segments committed",
            "In each interval.",
            (f"sum by (satellite) (increase(perigee_ground_segments_total{{{AT}}}[$__rate_interval]))", "{{satellite}}"),
            width=8,
        ),
        curves(
            "Payload committed",
            "In each interval.",
            (
                f"sum by (satellite) (increase(perigee_ground_committed_payload_bytes_total{{{AT}}}[$__rate_interval]))",
                "{{satellite}}",
            ),
            unit="bytes",
            width=8,
        ),
        curves(
            "Unfinished segments",
            "What LOS would leave to be resumed.",
            (f"max by (satellite, station) (perigee_satellite_partial_bytes{{{AT}}})", "{{satellite}} {{station}}"),
            unit="bytes",
            width=8,
        ),
        curves(
            "Delay of what arrives, 95 %",
            "By lane: urgent ones first.",
            (OVER.format(q=0.95, by="satellite, lane", labels=f'{AT}, lane=~"$lane"'), "{{satellite}} lane {{lane}}"),
            unit="s",
            points="always",
            width=8,
        ),
        curves(
            "Came again",
            "Segments that the ledger had already, in each interval.",
            (
                f"sum by (satellite) (increase(perigee_ground_duplicate_segments_total{{{AT}}}[$__rate_interval]))",
                "{{satellite}}",
            ),
            width=8,
        ),
        row("The station in this pass"),
        curves(
            "Spool",
            "A full spool stops reading.",
            ('perigee_spool_used_bytes{station=~"$station"}', "{{station}} used"),
            ('perigee_spool_max_bytes{station=~"$station"}', "{{station}} limit"),
            unit="bytes",
            width=8,
        ),
        states(
            "Spool full",
            "Then links do not read.",
            'perigee_spool_full{station=~"$station"}',
            "{{station}}",
            YES_IS_BAD,
            width=8,
            height=8,
        ),
        curves(
            "Refused peers",
            "In each interval.",
            ('increase(perigee_link_refused_total{station=~"$station"}[$__rate_interval])', "{{station}}"),
            width=8,
        ),
        row("The agent in this pass, where it can be scraped"),
        curves(
            "Sent",
            "Payload, of it again, and everything in UDP.",
            (f"sum by (satellite) (rate(perigee_link_sent_bytes_total{{{OF}}}[$__rate_interval]))", "{{satellite}} payload"),
            (f"sum by (satellite) (rate(perigee_link_resent_bytes_total{{{OF}}}[$__rate_interval]))", "{{satellite}} again"),
            (f"sum by (satellite) (rate(perigee_link_udp_sent_bytes_total{{{OF}}}[$__rate_interval]))", "{{satellite}} UDP"),
            unit="Bps",
            width=8,
        ),
        curves(
            "Taken to be lost",
            "Bytes of packets, sent again.",
            (f"sum by (satellite) (rate(perigee_link_lost_bytes_total{{{OF}}}[$__rate_interval]))", "{{satellite}}"),
            unit="Bps",
            width=8,
        ),
        curves(
            "Connections",
            "Came up and failed, in each interval.",
            (
                f"sum by (satellite) (increase(perigee_link_connections_total{{{OF}}}[$__rate_interval]))",
                "{{satellite}} came up",
            ),
            (
                f"sum by (satellite) (increase(perigee_link_failed_attempts_total{{{OF}}}[$__rate_interval]))",
                "{{satellite}} failed",
            ),
            width=8,
        ),
    ],
    since="now-1h",
    refresh="5s",
)
