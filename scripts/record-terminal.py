#!/usr/bin/env python3
"""Records docs/images/terminal.svg: two terminals against a real server.

    make run                       # once, to build the program; then stop it
    scripts/record-terminal.py

LATCHKEY names another program than target/release/latchkey. The server runs on free ports in a temporary directory.
The recording shows what the commands print, in the order in which they print it; the pauses are shortened.
"""

import html
import os
import queue
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs/images/terminal.svg"
PASSWORD = "correct horse battery staple"
TITLES = ["alice on her phone", "alice on her tablet"]

# Which terminal, the command, and whether the next step waits for its end.
STEPS = [
    (0, "PHONE=$(latchkey login alice --device Phone <password 2>/dev/null)", True),
    (0, 'echo "$PHONE" | latchkey watch', False),
    (1, "TABLET=$(latchkey login alice --device Tablet <password)", True),
    (0, 'echo "$PHONE" | latchkey logout', True),
    (1, 'echo "$TABLET" | latchkey validate', True),
]

COLUMNS, FONT, LINE, GAP = 68, 12.5, 18, 12
CHARACTER = FONT * 0.602
TYPING, OUTPUT, PAUSE = 0.02, 0.06, 1.1  # Seconds a character, a line, and after a command.


class Terminal:
    """A shell whose output arrives line by line."""

    def __init__(self, number, folder, environment, events):
        self.number, self.events = number, events
        self.ended = threading.Event()
        self.ended.set()
        self.shell = subprocess.Popen(
            ["bash", "--norc"], cwd=folder, env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.shell.stdout:
            if line.startswith("\x01"):
                self.ended.set()
            else:
                self.events.put((self.number, "output", line.rstrip("\n")))

    def run(self, command, wait):
        self.ended.clear()
        self.events.put((self.number, "command", command))
        self.shell.stdin.write(f"{command}\nprintf '\\001\\n'\n")
        # Without waiting: until the command has had time to print what it begins with.
        if not self.ended.wait(10 if wait else 1) and wait:
            sys.exit(f"{command}: no end after 10 s")


def record(latchkey):
    """Runs the steps and returns what was typed and printed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "password").write_text(f"{PASSWORD}\n")
        environment = {
            "PATH": f"{Path(latchkey).resolve().parent}:{os.environ['PATH']}",
            "LATCHKEY_DATA_DIR": f"{folder}/data",
            "LATCHKEY_LISTEN__GRPC": "127.0.0.1:0",
            "LATCHKEY_LISTEN__HTTP": "127.0.0.1:0",
        }
        server = subprocess.Popen(
            [latchkey, "serve"], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            address = re.search(r"listens on (\S+) \(gRPC\)", server.stdout.readline())[1]
            environment["LATCHKEY_SERVER"] = address
            subprocess.run(
                [latchkey, "account", "add", "alice", "--role", "staff"],
                env=environment, input=PASSWORD, text=True, check=True, stdout=subprocess.DEVNULL,
            )
            events = queue.Queue()
            terminals = [Terminal(number, folder, environment, events) for number in range(len(TITLES))]
            for number, command, wait in STEPS:
                # The terminal may be busy with a command that the steps did not wait for.
                if not terminals[number].ended.wait(10):
                    sys.exit(f"{command}: the command before it does not end")
                terminals[number].run(command, wait)
                time.sleep(0.3)
            for terminal in terminals:
                terminal.shell.stdin.close()
                terminal.shell.wait(5)
            return list(events.queue)
        finally:
            server.terminate()
            server.wait(15)


def wrapped(text):
    return textwrap.wrap(text, COLUMNS, drop_whitespace=False) or [""]


def render(events):
    """The SVG: each line appears when it was typed or printed."""
    rows = [0] * len(TITLES)
    lines, now, previous = [], 0.6, None
    pane = COLUMNS * CHARACTER + 2 * GAP
    for number, kind, text in events:
        if kind == "command":
            now += PAUSE if previous else 0
            rows[number] += 1 if rows[number] else 0
        elif (number, kind) != previous and previous and previous[0] != number:
            now += 0.25
        style = {"command": "command", "output": "news" if re.search("REPLACED|^displaced", text) else "output"}[kind]
        for part in wrapped(f"$ {text}" if kind == "command" else text):
            x, y = GAP + number * (pane + GAP) + GAP, 62 + rows[number] * LINE
            lines.append(
                f'<text class="{style}" x="{x:.0f}" y="{y}" style="animation-delay:{now:.2f}s">'
                f"{html.escape(part)}</text>"
            )
            rows[number] += 1
            now += len(part) * TYPING if kind == "command" else OUTPUT
        previous = (number, kind)
    width, height = len(TITLES) * (pane + GAP) + GAP, 62 + max(rows) * LINE + GAP
    frames = []
    for number, title in enumerate(TITLES):
        x = GAP + number * (pane + GAP)
        frames.append(
            f'<rect class="pane" x="{x:.0f}" y="{GAP}" width="{pane:.0f}" height="{height - 2 * GAP}" rx="6"/>\n'
            f'<text class="title" x="{x + pane / 2:.0f}" y="34" text-anchor="middle">{title}</text>'
        )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" viewBox="0 0 {width:.0f} {height}" role="img"
  aria-label="Two terminals: the phone is told at once that the tablet replaced its session">
<!-- Written by scripts/record-terminal.py -->
<style>
  text {{ font: {FONT}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    white-space: pre; animation: show 1ms both; }}
  .pane {{ fill: #161b22; stroke: #8b949e; stroke-opacity: 0.5; }}
  .title {{ fill: #8b949e; animation: none; }}
  .command {{ fill: #f0f6fc; font-weight: 600; }}
  .output {{ fill: #b1bac4; }}
  .news {{ fill: #ffa657; }}
  @keyframes show {{ from {{ opacity: 0; }} to {{ opacity: 1; }} }}
  @media (prefers-reduced-motion: reduce) {{ text {{ animation: none; }} }}
</style>
{chr(10).join(frames)}
{chr(10).join(lines)}
</svg>
"""


def main():
    latchkey = os.environ.get("LATCHKEY", str(ROOT / "target/release/latchkey"))
    if not Path(latchkey).is_file():
        sys.exit(f"{latchkey} does not exist: build it with `make run`, or set LATCHKEY to the program")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(render(record(latchkey)))
    print(f"wrote {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
