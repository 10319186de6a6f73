#!/usr/bin/env python3
"""Draws a dashboard as a picture, from its JSON and the answers of a Prometheus: what Grafana would show, roughly.

    python3 -m venv venv && venv/bin/pip install matplotlib
    venv/bin/python dashboards/draw.py http://127.0.0.1:9090 dashboards/operations.json docs/operations.png
    venv/bin/python dashboards/draw.py http://127.0.0.1:9090 dashboards/traces.json docs/traces.png http://127.0.0.1:16686

Every panel of the JSON is in the picture, in its place and with its title. What was drawn is written into the picture
(the PNG text "Panels"), and a test compares it with the JSON: a panel that changes has to change its picture. The last
argument is a Jaeger that holds the traces: panels that ask Tempo are drawn from its answers, by the part of TraceQL that
they use (one spanset of conditions joined by &&, and select).
"""

import json
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend has to be chosen first)

SERVICE = "model-update-eventsource"
# What is chosen in the dashboard's variables: everything.
CHOSEN = {
    "$__rate_interval": "30s",
    "$job": ".+",
    "$instance": ".+",
    "$namespace": ".*",
    "$pipeline": ".*",
}
SPAN = 300
STEP = 5
ROW_INCHES = 0.34
COLUMN_INCHES = 0.75


def ask(prometheus, path, **parameters):
    url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        data = json.load(answer)["data"]
    return data["result"] if isinstance(data, dict) else data


def filled_in(query):
    for variable, value in CHOSEN.items():
        query = query.replace(variable, value)
    return query


def named(target, labels):
    legend = target.get("legendFormat", "")
    for name, value in labels.items():
        legend = legend.replace("{{" + name + "}}", value)
    return legend or " "


def readable(value, unit):
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    return f"{value:.3g}" + (" s" if unit == "s" else "")


def spans_of(jaeger):
    """Every span that Jaeger holds of us, with what TraceQL calls its attributes."""
    parameters = urllib.parse.urlencode({"service": SERVICE, "limit": 500, "lookback": "1h"})
    with urllib.request.urlopen(f"{jaeger}/api/traces?{parameters}", timeout=20) as answer:
        traces = json.load(answer)["data"]
    for trace in traces:
        for span in trace["spans"]:
            attributes = {f"span.{tag['key']}": str(tag["value"]) for tag in span["tags"]}
            status = "error" if attributes.get("span.error") == "True" else "ok"
            attributes |= {"name": span["operationName"], "resource.service.name": SERVICE, "status": status}
            yield span | {"attributes": attributes}


def selected(query, jaeger):
    """The spans that a query finds, the latest first, and the names of the attributes that it wants to see."""
    conditions, columns = re.fullmatch(r"\{ (.*) \} \| select\((.*)\)", query).groups()
    wanted = [re.fullmatch(r'([\w.]+)(=~?)"?(.*?)"?', condition).groups() for condition in conditions.split(" && ")]

    def fits(span):
        for name, operator, value in wanted:
            pattern = value if operator == "=~" else re.escape(value)
            have = span["attributes"].get(name)
            if have is None or not re.fullmatch(pattern, have):
                return False
        return True

    found = sorted(filter(fits, spans_of(jaeger)), key=lambda span: -span["startTime"])
    return found, columns.split(", ")


def draw_table(axes, panel, jaeger):
    query = filled_in(panel["targets"][0]["query"])
    spans, columns = selected(query, jaeger)
    shown = spans[: 2 * panel["gridPos"]["h"] - 5]
    head = ["time", "trace"] + [name.split(".", 1)[-1].removeprefix("modelupdate.") for name in columns]
    rows = [
        [time.strftime("%H:%M:%S", time.gmtime(span["startTime"] / 1e6)), span["traceID"][:8] + "…"]
        + [span["attributes"].get(name, "") for name in columns]
        for span in shown
    ]
    nothing = [["no data"] + [""] * (len(head) - 1)]
    table = axes.table(cellText=rows or nothing, colLabels=head, loc="upper left", cellLoc="left")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    axes.axis("off")


def draw_trace(axes, jaeger):
    """The latest run that was delivered, as bars."""
    known = list(spans_of(jaeger))
    marks = [span for span in known if span["operationName"] == "mark"]
    latest = max(marks, key=lambda span: span["startTime"])
    spans = [span for span in known if span["traceID"] == latest["traceID"]]
    spans.sort(key=lambda span: (span["startTime"], -span["duration"]))
    began = spans[0]["startTime"]
    for row, span in enumerate(spans):
        at, lasted = (span["startTime"] - began) / 1e6, span["duration"] / 1e6
        axes.barh(-row, max(lasted, 0.01), left=at, height=0.6, color="#3b78c2")
        text = f" {span['operationName']}  {lasted * 1000:.1f} ms"
        axes.text(at + max(lasted, 0.01), -row, text, va="center", fontsize=7)
    axes.set_yticks([])
    axes.set_xlim(right=1.35 * max((span["startTime"] - began + span["duration"]) / 1e6 for span in spans))
    axes.set_xlabel("seconds since the Workflow was created", fontsize=6)
    axes.tick_params(labelsize=6)


def draw_heatmap(axes, panel, prometheus):
    """Buckets over time, and an exemplar as a point."""
    now = time.time()
    query = filled_in(panel["targets"][0]["expr"])
    results = ask(prometheus, "query_range", query=query, start=now - SPAN, end=now, step=STEP)
    results.sort(key=lambda result: float(result["metric"]["le"]))
    names = [result["metric"]["le"] for result in results]
    at = sorted({stamp for result in results for stamp, _ in result["values"]})
    counts = [[float(dict(map(tuple, result["values"])).get(stamp, 0)) for stamp in at] for result in results]
    below = [[0.0] * len(at)] + counts[:-1]
    each = [[max(up - low, 0.0) for up, low in zip(*rows)] for rows in zip(counts, below)]
    axes.pcolormesh([stamp - now for stamp in at], range(len(names)), each, cmap="Blues", shading="nearest")
    axes.set_yticks(range(0, len(names), 2), names[::2])
    axes.tick_params(labelsize=6)
    family = re.search(r"\w+_bucket", query).group()
    for series in ask(prometheus, "query_exemplars", query=family, start=now - SPAN, end=now):
        for exemplar in series["exemplars"][-25:]:
            row = next(row for row, le in enumerate(names) if float(exemplar["value"]) <= float(le))
            axes.plot(exemplar["timestamp"] - now, row, "D", color="#d97706", markersize=3)


def draw_stat(axes, panel, prometheus):
    results = ask(prometheus, "query", query=filled_in(panel["targets"][0]["expr"]))
    unit = panel["fieldConfig"]["defaults"]["unit"]
    text = readable(float(results[0]["value"][1]), unit) if results else "no data"
    axes.text(0.5, 0.45, text, ha="center", va="center", fontsize=20, color="#2a7d3f", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_series(axes, panel, prometheus):
    now = time.time()
    lines = 0
    for target in panel["targets"]:
        query = filled_in(target["expr"])
        for result in ask(prometheus, "query_range", query=query, start=now - SPAN, end=now, step=STEP):
            points = [(float(at) - now, float(value)) for at, value in result["values"]]
            axes.plot(*zip(*points), linewidth=1.2, label=named(target, result["metric"]))
            lines += 1
    if lines:
        axes.legend(fontsize=6, loc="upper left", ncols=2, frameon=False)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(panel["fieldConfig"]["defaults"]["unit"], fontsize=6)
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.3)


def draw(prometheus, dashboard, picture, jaeger):
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(24 * COLUMN_INCHES, rows * ROW_INCHES + 0.6), facecolor="white")
    figure.suptitle(dashboard["title"], fontsize=14, y=0.995)
    for panel in panels:
        place = panel["gridPos"]
        box = [
            place["x"] / 24 + 0.022,
            0.985 - (place["y"] + place["h"] - 0.9) / rows * 0.97,
            place["w"] / 24 - 0.032,
            max(place["h"] - 2.4, 0.4) / rows * 0.97,
        ]
        if panel["type"] == "row":
            figure.text(0.01, 0.985 - (place["y"] + 0.7) / rows * 0.97, panel["title"], fontsize=11, weight="bold")
            continue
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=8, loc="left")
        if panel["type"] == "table":
            draw_table(axes, panel, jaeger)
        elif panel["type"] == "traces":
            draw_trace(axes, jaeger)
        elif panel["type"] == "heatmap":
            draw_heatmap(axes, panel, prometheus)
        elif panel["type"] == "stat":
            draw_stat(axes, panel, prometheus)
        else:
            draw_series(axes, panel, prometheus)
    figure.savefig(picture, dpi=70, metadata={"Panels": json.dumps([drawn(panel) for panel in panels])})


def drawn(panel):
    """What of a panel can be seen in the picture."""
    targets = [target.get("expr") or target["query"] for target in panel.get("targets", [])]
    return {"title": panel["title"], "type": panel["type"], "place": panel["gridPos"], "queries": targets}


def main(arguments):
    if len(arguments) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    prometheus, dashboard, picture = arguments[:3]
    jaeger = arguments[3].rstrip("/") if len(arguments) == 4 else None
    dashboard = json.loads(pathlib.Path(dashboard).read_text())
    if jaeger is None and any(panel["type"] in ("table", "traces") for panel in dashboard["panels"]):
        print("this dashboard has panels of traces: name a Jaeger as the last argument", file=sys.stderr)
        return 2
    draw(prometheus.rstrip("/"), dashboard, picture, jaeger)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
