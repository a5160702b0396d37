"""What a panel of each kind looks like, and how a dashboard is laid out. See dashboards.py."""

import json

WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
LEGEND = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
TOOLTIP = {"mode": "multi", "sort": "desc"}
GREEN, YELLOW, RED = "green", "yellow", "red"


def steps(*pairs, base=GREEN):
    """Thresholds: `base` below the first, then each colour from its value on."""
    return {"mode": "absolute", "steps": [{"color": base, "value": None}, *({"color": c, "value": v} for v, c in pairs)]}


def words(**meaning):
    """Words and colours for values: words(v1=("down", RED))."""
    options = {
        value[1:]: {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(meaning.items())
    }
    return [{"type": "value", "options": options}]


YES_IS_BAD = words(v0=("no", GREEN), v1=("yes", RED))
UP_IS_GOOD = words(v0=("down", RED), v1=("up", GREEN))
LINK = words(v0=("no contact", "text"), v1=("in contact", GREEN))


def query(expr, legend="", instant=False, form="time_series"):
    """One query. What is drawn over time is a range, what is a number or a table is instant."""
    target = {
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": expr,
        "format": form,
        "instant": instant,
        "range": not instant,
    }
    return {**target, **({"legendFormat": legend} if legend else {})}


def panel(kind, title, why, queries, width, height, options, defaults, custom=None, overrides=(), **more):
    for number, target in enumerate(queries):
        target["refId"] = chr(ord("A") + number)
    return {
        "type": kind,
        "title": title,
        "description": why,
        "datasource": SOURCE,
        "targets": queries,
        "size": (width, height),
        "options": options,
        "fieldConfig": {"defaults": {**defaults, **({"custom": custom} if custom else {})}, "overrides": list(overrides)},
        **more,
    }


def number(
    title, why, expr, unit="short", limits=None, mappings=(), width=4, empty=None, decimals=None, legend="", text="auto"
):
    """One number, large."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "auto",
        "textMode": text,
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    defaults = {"unit": unit, "thresholds": limits or steps(), "mappings": list(mappings), "color": {"mode": "thresholds"}}
    defaults |= {"noValue": empty} if empty else {}
    defaults |= {"decimals": decimals} if decimals is not None else {}
    return panel("stat", title, why, [query(expr, legend, instant=True)], width, 4, options, defaults)


def curves(title, why, *pairs, unit="short", width=12, height=8, stack=False, least=0, limits=None, points="auto"):
    """Curves over time; `pairs` are (expression, legend)."""
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 15 if stack else 8,
        "showPoints": points,
        "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if limits else "off"},
    }
    defaults = {"unit": unit, "color": {"mode": "palette-classic"}, **({"thresholds": limits} if limits else {})}
    defaults |= {"min": least} if least is not None else {}
    queries = [query(expr, legend) for expr, legend in pairs]
    return panel("timeseries", title, why, queries, width, height, {"legend": LEGEND, "tooltip": TOOLTIP}, defaults, custom)


def states(title, why, expr, legend, mappings, width=24, height=6):
    """States over time, a line for each series."""
    options = {
        "showValue": "never",
        "rowHeight": 0.9,
        "mergeValues": True,
        "alignValue": "left",
        "legend": LEGEND,
        "tooltip": {"mode": "single", "sort": "none"},
    }
    defaults = {"mappings": mappings, "color": {"mode": "thresholds"}, "thresholds": steps(base="text")}
    custom = {"fillOpacity": 80, "lineWidth": 0}
    return panel("state-timeline", title, why, [query(expr, legend)], width, height, options, defaults, custom)


def delays(title, why, expr, width=12, height=8):
    """A histogram over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Blues",
            "fill": "blue",
            "scale": "exponential",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "yAxis": {"unit": "s", "axisPlacement": "left"},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "exemplars": {"color": "red"},
        "filterValues": {"le": 1e-9},
        "showValue": "never",
    }
    custom = {"scaleDistribution": {"type": "linear"}, "hideFrom": {"legend": False, "tooltip": False, "viz": False}}
    return panel("heatmap", title, why, [query(expr, "{{le}}", form="heatmap")], width, height, options, {}, custom)


class Column:
    """A column of a table: an expression with one value for each row."""

    def __init__(self, name, expr, unit="short", limits=None, mappings=(), decimals=None):
        self.name, self.expr, self.unit, self.limits, self.mappings = name, expr, unit, limits, mappings
        self.decimals = decimals

    def override(self):
        properties = [{"id": "unit", "value": self.unit}]
        properties += [{"id": "decimals", "value": self.decimals}] if self.decimals is not None else []
        properties += [{"id": "mappings", "value": self.mappings}] if self.mappings else []
        if self.limits or self.mappings:
            properties += [{"id": "custom.cellOptions", "value": {"type": "color-text"}}]
        properties += [{"id": "thresholds", "value": self.limits}] if self.limits else []
        return {"matcher": {"id": "byName", "options": self.name}, "properties": properties}


def table(title, why, rows, columns, sort, height=8, links=(), hide=()):
    """A table with a row for each value of the labels `rows`, which every column's expression keeps and no other."""
    queries = [query(column.expr, instant=True, form="table") for column in columns]
    names = {f"Value #{chr(ord('A') + n)}" if len(columns) > 1 else "Value": c.name for n, c in enumerate(columns)}
    order = {name: index for index, name in enumerate([*rows, *names])}
    excluded = {name: True for name in ("Time", *hide)}
    change = {"excludeByName": excluded, "indexByName": order, "renameByName": {**names, **{row: row for row in rows}}}
    linked = [
        {"matcher": {"id": "byName", "options": row}, "properties": [{"id": "links", "value": [{"title": says, "url": url}]}]}
        for row, says, url in links
    ]
    return panel(
        "table",
        title,
        why,
        queries,
        WIDTH,
        height,
        {"frameIndex": 0, "showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": sort[0], "desc": sort[1]}]},
        {"color": {"mode": "thresholds"}, "thresholds": steps(), "mappings": []},
        {"align": "auto", "inspect": False},
        [*(column.override() for column in columns), *linked],
        transformations=[{"id": "merge", "options": {}}, {"id": "organize", "options": change}],
    )


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "size": (WIDTH, 1)}


def laid_out(panels):
    """Gives each panel its place, from left to right and from top to bottom, and its id."""
    x = y = tallest = 0
    for index, each in enumerate(panels):
        width, height = each.pop("size")
        if x + width > WIDTH:
            x, y, tallest = 0, y + tallest, 0
        each |= {"id": index + 1, "gridPos": {"x": x, "y": y, "w": width, "h": height}}
        x, tallest = x + width, max(tallest, height)
    return panels


def variable(name, label, metric, of=None, several=True):
    """A choice among the values of a label."""
    selector = f"label_values({metric}, {of or name})"
    every = {"selected": True, "text": ["All"], "value": ["$__all"]} if several else {}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "definition": selector,
        "query": {"qryType": 1, "query": selector, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,
        "sort": 7,
        "multi": several,
        "includeAll": several,
        "hide": 0,
        "regex": "",
        "options": [],
        **({"allValue": ".*"} if several else {}),
        "current": every,
    }


def dashboard(uid, title, why, variables, panels, since="now-24h", refresh="30s"):
    source = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "regex": "",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "options": [],
        "current": {"selected": False, "text": "default", "value": "default"},
    }
    others = {
        "type": "dashboards",
        "title": "Perigee",
        "tags": ["perigee"],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
    alerts = {
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "name": "Critical alerts",
        "expr": 'ALERTS{alertname=~"Perigee.*", alertstate="firing", severity="critical"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{satellite}} {{station}}",
        "step": "60s",
    }
    return {
        "uid": uid,
        "title": title,
        "description": why,
        "tags": ["perigee"],
        "schemaVersion": 42,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "timezone": "utc",
        "refresh": refresh,
        "time": {"from": since, "to": "now"},
        "timepicker": {},
        "links": [others],
        "annotations": {"list": [alerts]},
        "templating": {"list": [source, *variables]},
        "panels": laid_out(panels),
    }


def written(document):
    """As it is kept in a file: a line for each query, option and place, so that changes can be read."""

    def text(value, depth):
        inner = json.dumps(value, ensure_ascii=False)
        if len(inner) + depth <= 120 or not isinstance(value, (dict, list)) or not value:
            return inner
        pad, end = " " * (depth + 1), " " * depth
        if isinstance(value, list):
            lines = [f"{pad}{text(each, depth + 1)}" for each in value]
            return "[\n" + ",\n".join(lines) + f"\n{end}]"
        lines = [f"{pad}{json.dumps(key)}: {text(each, depth + 1)}" for key, each in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{end}}}"

    return text(document, 0) + "\n"
