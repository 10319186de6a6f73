#!/usr/bin/env python3
"""Draws a dashboard as a picture, from its JSON and the answers of a Prometheus: what Grafana would show, roughly.

    python3 -m venv venv && venv/bin/pip install matplotlib
    venv/bin/python dashboards/draw.py http://127.0.0.1:9090 dashboards/operations.json docs/operations.png

Every panel of the JSON is in the picture, in its place and with its title. What was drawn is written into the picture
(the PNG text "Panels"), and a test compares it with the JSON: a panel that changes has to change its picture. Panels that
ask Tempo are drawn empty: their answers are not Prometheus's.
"""

import json
import pathlib
import sys
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend has to be chosen first)

SPAN = 300
STEP = 5
ROW_INCHES = 0.34
COLUMN_INCHES = 0.75


def ask(prometheus, path, **parameters):
    url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)["data"]["result"]


def filled_in(query):
    for variable, value in {"$__rate_interval": "30s", "$job": ".+", "$instance": ".+", "$namespace": ".*"}.items():
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


def draw(prometheus, dashboard, picture):
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
        if panel["datasource"]["type"] != "prometheus":
            axes.text(0.5, 0.5, "(Tempo)", ha="center", va="center", color="grey", transform=axes.transAxes)
            axes.set_xticks([])
            axes.set_yticks([])
        elif panel["type"] == "stat":
            draw_stat(axes, panel, prometheus)
        else:
            draw_series(axes, panel, prometheus)
    figure.savefig(picture, dpi=70, metadata={"Panels": json.dumps([drawn(panel) for panel in panels])})


def drawn(panel):
    """What of a panel can be seen in the picture."""
    targets = [target.get("expr") for target in panel.get("targets", [])]
    return {"title": panel["title"], "type": panel["type"], "place": panel["gridPos"], "queries": targets}


def main(arguments):
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    prometheus, dashboard, picture = arguments
    draw(prometheus.rstrip("/"), json.loads(pathlib.Path(dashboard).read_text()), picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
