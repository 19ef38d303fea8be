#!/usr/bin/env python3
"""Draws the dashboard of `grafana.json` as an SVG, without Grafana: each panel at its place, with what its queries return.

    ops/picture.py http://127.0.0.1:9090 > dashboard.svg

It asks a Prometheus that has scraped a program, for the last minutes (the second argument, by default 5). It needs nothing but Python 3.
"""

import html
import json
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

COLUMN, ROW = 50, 30
COLORS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d"]
INTERVAL = "30s"


def ask(server, path, **values):
    url = f"{server}/api/v1/{path}?{urllib.parse.urlencode(values)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def shown(value, unit):
    """A number as Grafana would write it, shortly."""
    if unit == "percentunit":
        return f"{100 * value:.1f} %"
    if unit == "s":
        for factor, name in [(1, "s"), (1e3, "ms"), (1e6, "µs")]:
            if abs(value) * factor >= 1 or name == "µs":
                return f"{value * factor:.3g} {name}"
    text = f"{value / 1000:.3g} k" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text}/s" if unit == "ops" else text


def legend(target, labels):
    text = target.get("legendFormat") or ""
    text = re.sub(r"{{\s*(\w+)\s*}}", lambda name: labels.get(name[1], ""), text)
    return text or " ".join(value for name, value in labels.items() if name != "__name__") or "value"


class Picture:
    def __init__(self, dashboard, server, minutes):
        self.dashboard, self.server = dashboard, server
        self.end = time.time()
        self.start = self.end - 60 * minutes
        self.parts = []

    def text(self, x, y, text, size=11, color="#ccccdc", anchor="start"):
        text = html.escape(text)
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}">{text}</text>')

    def series(self, panel):
        for target in panel.get("targets", []):
            query = re.sub(r"\$(job|entity|cache)", ".*", target["expr"])
            query = query.replace("$__rate_interval", INTERVAL).replace("$__range", "5m")
            found = ask(self.server, "query_range", query=query, start=self.start, end=self.end, step=5)
            for one in found:
                points = [(float(at), float(value)) for at, value in one["values"] if value not in ("NaN", "+Inf", "-Inf")]
                if points:
                    yield legend(target, one["metric"]), points

    def panel(self, panel):
        place = panel["gridPos"]
        x, y = COLUMN * place["x"], ROW * place["y"]
        width, height = COLUMN * place["w"] - 6, ROW * place["h"] - 6
        if panel["type"] == "row":
            self.text(x + 4, y + 19, panel["title"], 14)
            return
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="#181b1f" stroke="#2c3235"/>')
        self.text(x + 8, y + 17, panel["title"], 12)
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
        series = list(self.series(panel))
        if not series:
            self.text(x + width / 2, y + height / 2 + 8, "no data", 11, "#6e7079", "middle")
        elif panel["type"] == "stat":
            self.text(x + width / 2, y + height / 2 + 20, shown(series[0][1][-1][1], unit), 24, COLORS[0], "middle")
        else:
            self.lines(series, unit, x, y, width, height)

    def lines(self, series, unit, x, y, width, height):
        left, right, upper, lower = x + 62, x + width - 8, y + 28, y + height - 34
        most = max(value for _, points in series for _, value in points) or 1
        for part in (0, 0.5, 1):
            at = lower - part * (lower - upper)
            self.parts.append(f'<line x1="{left}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}" stroke="#2c3235"/>')
            self.text(left - 4, at + 4, shown(part * most, unit), 10, "#8e8e8e", "end")
        spot = x + 8
        for number, (name, points) in enumerate(series[:8]):
            color = COLORS[number]
            line = " ".join(
                f"{left + (at - self.start) / (self.end - self.start) * (right - left):.1f},{lower - value / most * (lower - upper):.1f}"
                for at, value in points
            )
            self.parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>')
            if spot + 7 * len(name) + 22 < x + width:
                self.parts.append(f'<rect x="{spot}" y="{y + height - 18}" width="10" height="3" fill="{color}"/>')
                self.text(spot + 14, y + height - 13, name, 10)
                spot += 7 * len(name) + 26

    def draw(self):
        panels = self.dashboard["panels"]
        for panel in panels:
            self.panel(panel)
        bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
        width, height = 24 * COLUMN, ROW * bottom
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
        return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#111217"/>', *self.parts, "</svg>"])


def main():
    server = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:9090"
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 5
    dashboard = json.loads(pathlib.Path(__file__).with_name("grafana.json").read_text())
    print(Picture(dashboard, server, minutes).draw())


main()
