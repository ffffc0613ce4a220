#!/usr/bin/env python3
"""Records docs/images/web-page.png: the page in examples/web in two browsers, of which the second has logged in later.

    make example-web               # once, to build the program; then end it
    scripts/record-web-page.py

It needs chromium and the ports of the example. LATCHKEY names another program than target/release/latchkey.
"""

import base64
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGE = ROOT / "docs/images/web-page.png"
PROGRAM = Path(os.environ.get("LATCHKEY", ROOT / "target/release/latchkey")).resolve()
PAGE, PASSWORD, SIZE = "http://localhost:8000", "correct horse battery staple", (440, 470)
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
ANDROID = "Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 Chrome/156.0.0.0 Mobile Safari/537.36"
# Chromium reads the DevTools protocol from descriptor 3 and writes it to 4.
CHROMIUM = """exec chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir=profile \
    --remote-debugging-pipe 3<&0 4>&1 0</dev/null 1>&2"""


class Browser:
    def __init__(self, process):
        self.process, self.last = process, 0

    def call(self, method, session=None, **parameters):
        self.last += 1
        request = {"id": self.last, "method": method, "params": parameters}
        self.process.stdin.write(json.dumps(request | ({"sessionId": session} if session else {})).encode() + b"\0")
        self.process.stdin.flush()
        while True:
            message = json.loads(b"".join(iter(lambda: self.process.stdout.read(1), b"\0")))
            if message.get("id") == self.last:
                return message["result"]

    def open(self, url, agent, size):
        """Opens an address with cookies of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        page = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        width, height = size
        view = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", page, **view)
        self.call("Emulation.setUserAgentOverride", page, userAgent=agent)
        self.call("Emulation.setLocaleOverride", page, locale="en-GB")
        self.call("Page.navigate", page, url=url)
        return page

    def evaluate(self, page, expression):
        return self.call("Runtime.evaluate", page, expression=expression, returnByValue=True)["result"].get("value")

    def until(self, page, condition):
        while not self.evaluate(page, condition):
            time.sleep(0.05)

    def log_in(self, page):
        self.until(page, "document.querySelector('#login:not([hidden])') !== null")
        values = f"username.value = 'anna'; password.value = '{PASSWORD}'; document.querySelector('#login button').click()"
        self.evaluate(page, values)
        self.until(page, "!document.querySelector('#session').hidden")

    def picture(self, page):
        self.evaluate(page, "document.activeElement.blur()")
        return self.call("Page.captureScreenshot", page)["data"]


def main():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = os.environ | {"LATCHKEY_DATA_DIR": f"{folder}/data"}
        quiet, processes = subprocess.DEVNULL, []
        try:
            serve = [PROGRAM, "serve", "--config", ROOT / "examples/web/latchkey.toml"]
            files = ["python3", "-m", "http.server", "8000", "--bind", "127.0.0.1", "--directory", ROOT / "examples/web"]
            for command in (serve, files):
                processes.append(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet))
            while subprocess.run([PROGRAM, "health"], env=environment, capture_output=True).returncode:
                time.sleep(0.1)
            account = [PROGRAM, "account", "add", "anna"]
            subprocess.run(account, env=environment, input=PASSWORD, text=True, check=True, capture_output=True)
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": quiet}
            processes.append(subprocess.Popen(["sh", "-c", CHROMIUM], cwd=folder, **pipes))
            browser = Browser(processes[-1])
            first, second = (browser.open(PAGE, agent, SIZE) for agent in (ANDROID, FIREFOX))
            browser.log_in(first)
            browser.log_in(second)
            browser.until(first, "document.querySelector('#notice').textContent.includes('logged out')")
            pictures = "".join(f'<img src="data:image/png;base64,{browser.picture(page)}">' for page in (first, second))
            style = "<style>body { margin: 0; display: flex; gap: 8px; background: #fff }</style>"
            Path(folder, "both.html").write_text(style + pictures)
            both = browser.open(f"file://{folder}/both.html", FIREFOX, (SIZE[0] * 2 + 8, SIZE[1]))
            browser.until(both, "document.readyState === 'complete'")
            IMAGE.write_bytes(base64.b64decode(browser.picture(both)))
        finally:
            for process in processes:
                process.kill(), process.wait()


main()
