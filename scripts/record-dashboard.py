#!/usr/bin/env python3
"""Records docs/images/dashboard.png: the panels of the dashboard, with what Prometheus has scraped from a real server.

    make run                       # once, to build the program; then stop it
    scripts/record-dashboard.py

It needs redis-server, prometheus and chromium, and takes 150 s. LATCHKEY names another program than
target/release/latchkey. Grafana shows the same panels, queries and legends in its own drawing.
"""

import html
import json
import math
import os
import random
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGE = ROOT / "docs/images/dashboard.png"
PROGRAM = Path(os.environ.get("LATCHKEY", ROOT / "target/release/latchkey")).resolve()
SECONDS, STEP, USERS, PASSWORD = 150, 2, 12, "correct horse battery staple"
COLUMN, ROW, GAP = 58, 19, 6  # In pixels.
COLOURS = "#2f7ed8 #d9822b #3d9a50 #c23b3b #7d5bbe #8c6d46 #d16ba5 #6b7280 #a3a52a #27a3b5".split()
STYLE = """text { font: 12px "DejaVu Sans"; fill: #222 } .row { font-weight: bold } .small { font-size: 9px }
.stat { font-size: 24px } rect { fill: #fff; stroke: #d5d8dc } line { stroke: #e5e7ea } path { fill: none }
body { margin: 0; background: #f4f5f7 }"""


def load(folder, processes):
    """Loads a server whose store hangs for a while. Returns the port of the Prometheus that scrapes it."""
    redis, grpc, http, prometheus = random.sample(range(20_000, 30_000), 4)
    environment = os.environ | {
        "LATCHKEY_DATA_DIR": f"{folder}/latchkey", "LATCHKEY_SESSIONS__URL": f"redis://127.0.0.1:{redis}",
        "LATCHKEY_LISTEN__GRPC": f"127.0.0.1:{grpc}", "LATCHKEY_LISTEN__HTTP": f"127.0.0.1:{http}",
        "LATCHKEY_VALIDATE__MAX_STALENESS": "250ms",
    }
    settings = (ROOT / "deploy/prometheus/prometheus.yml").read_text().split("    dns_sd_configs:")[0]
    settings = settings.replace("_interval: 15s", "_interval: 1s").replace("rules.yml", f"{ROOT}/deploy/prometheus/rules.yml")
    Path(folder, "prometheus.yml").write_text(f"{settings}    static_configs: [{{ targets: ['127.0.0.1:{http}'] }}]\n")
    Path(folder, "password").write_text(PASSWORD)

    def start(*command):
        given, quiet = Path(folder, "password").open(), subprocess.DEVNULL
        processes.append(subprocess.Popen(command, env=environment, cwd=folder, stdin=given, stdout=quiet, stderr=quiet))
        return processes[-1]

    def latchkey(*arguments, given=PASSWORD):
        done = subprocess.run([PROGRAM, *arguments], env=environment, input=given, capture_output=True, text=True)
        return done.stdout.strip()

    store = start("redis-server", "--port", str(redis), "--appendonly", "yes")
    start(PROGRAM, "serve")
    listen = f"--web.listen-address=127.0.0.1:{prometheus}"
    start("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", listen)
    while latchkey("health") != "serving":
        time.sleep(0.1)
    for name in [f"user{number}" for number in range(USERS)] + ["unary", "stream"]:
        latchkey("account", "add", name)
    end, tokens = time.time() + SECONDS, []
    bench = [PROGRAM, "bench", "--connections", "4", "--concurrency", "4", "--duration", f"{SECONDS}s"]
    start(*bench, "--login", "unary", "--rate", "1500")
    start(*bench, "--login", "stream", "--rate", "2500", "--stream")
    start(PROGRAM, "session", "watch")
    for seconds, order in [(SECONDS * 0.6, signal.SIGSTOP), (SECONDS * 0.6 + 4, signal.SIGCONT)]:
        threading.Timer(seconds, store.send_signal, [order]).start()
    # Each user has two devices, and uses displaced tokens. Some passwords are wrong, and some sessions end by a logout.
    while time.time() < end:
        turn = len(tokens)
        given = "wrong" if turn % 9 == 5 else PASSWORD
        tokens.append(latchkey("login", f"user{turn * 5 % USERS}", "--device", f"device {turn % 2}", given=given))
        latchkey("validate", given=tokens[-USERS - 1 :][0])
        if turn % 7 == 3:
            latchkey("logout", given=tokens[-1])
    return prometheus


def series(prometheus, target):
    """The series of a query: their legends and points."""
    query = target["expr"].replace("$job", "latchkey").replace("$instance", ".*").replace("$__rate_interval", "10s")
    now = int(time.time())
    form = urllib.parse.urlencode({"query": query, "start": now - SECONDS, "end": now, "step": STEP}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{prometheus}/api/v1/query_range", form) as answer:
        for found in json.load(answer)["data"]["result"]:
            legend = re.sub(r"{{(\w+)}}", lambda name: found["metric"].get(name[1], ""), target["legendFormat"])
            points = ((at - now + SECONDS, float(value)) for at, value in found["values"])
            yield legend, [point for point in points if math.isfinite(point[1])]


def amount(value, unit):
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    sizes = [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ")]
    size, sign = next((pair for pair in sizes if value >= pair[0]), (1, ""))
    return f"{value / size:.3g} {sign}" + {"s": "s", "ops": "/s", "bytes": "B"}.get(unit, "")


def draw(panel, lines):
    """A panel as SVG."""
    at, title, lines = panel["gridPos"], html.escape(panel["title"]), [line for line in lines if line[1]]
    x, y, width, height = at["x"] * COLUMN, at["y"] * ROW, at["w"] * COLUMN - GAP, at["h"] * ROW - GAP
    if panel["type"] == "row":
        return f'<text x="{x + 2}" y="{y + 14}" class="row">{title}</text>'
    frame = f'<rect x="{x}" y="{y}" width="{width}" height="{height}"/><text x="{x + 8}" y="{y + 15}">{title}</text>'
    options = panel["fieldConfig"]["defaults"]
    if panel["type"] == "stat":
        return f'{frame}<text x="{x + 8}" y="{y + 48}" class="stat">{amount(lines[0][1][-1][1], options["unit"])}</text>'
    left, top, wide, tall, bottom, legend = x + 62, y + 24, width - 72, height - 44, y + height - 6, x + 62
    is_log = "scaleDistribution" in options["custom"]
    values = [value for _, points in lines for _, value in points if value > 0] or [1]
    low, high = min(values) if is_log else 0, max(values)
    for level, value in ((top + tall, low), (top, high)):
        frame += f'<line x1="{left}" x2="{left + wide}" y1="{level}" y2="{level}"/><text x="{left - 5}" y="{level + 4}" '
        frame += f'class="small" text-anchor="end">{amount(value, options["unit"])}</text>'
    for number, (name, points) in enumerate(lines):
        colour, path = COLOURS[number % len(COLOURS)], ""
        for (before, _), (when, value) in zip([(-9, 0), *points], points):
            share = math.log(max(value, low) / low) / (math.log(high / low) or 1) if is_log else value / high
            path += f"{'ML'[when - before <= STEP]}{left + wide * when / SECONDS:.1f},{top + tall * (1 - share):.1f}"
        frame += f'<path d="{path}" stroke="{colour}"/>'
        if legend + 5.4 * len(name) < x + width:
            frame += f'<text x="{legend}" y="{bottom}" class="small" style="fill:{colour}">{html.escape(name)}</text>'
            legend += 5.4 * len(name) + 12
    return frame


def main():
    panels, processes = json.loads((ROOT / "deploy/grafana/dashboards/latchkey.json").read_text())["panels"], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            port = load(folder, processes)
            lines = [[line for query in panel.get("targets", []) for line in series(port, query)] for panel in panels]
        finally:
            for process in processes:
                process.kill(), process.wait()
        width, height = 24 * COLUMN, max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * ROW
        page = f'<meta charset="utf-8"><style>{STYLE}</style><svg width="{width}" height="{height}">'
        Path(folder, "page.html").write_text(page + "".join(map(draw, panels, lines)))
        command = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={width},{height}"]
        subprocess.run([*command, f"--screenshot={IMAGE}", f"file://{folder}/page.html"], check=True, capture_output=True)


main()
