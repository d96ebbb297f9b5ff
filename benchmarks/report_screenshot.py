"""Open a parity report in headless Chromium, take a picture of it and list what is wrong with the page.

``python benchmarks/report_screenshot.py report.html --out docs/report.png`` takes a picture of the report from its
verdict to its accuracies. It prints each request other than for the file itself, each message of the console, and each
part that is wider than the window or scrolls sideways. It exits with 1 if there is any of these. Only the browser must
be installed: it is driven over a pipe in the DevTools protocol.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60.0
"""Seconds to wait for an answer."""

SETTLE = 0.5
"""Seconds to wait after loading for late requests and messages."""

COLOURS = 256
"""Colours of the picture. A page has few."""

# A sandbox needs rights that containers lack. The page is our own and may run no script.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
)

MEASURE = """(() => {
  const last = document.querySelector(%s);
  const page = document.documentElement;
  const scrolling = [...document.querySelectorAll("body *")].filter(
    one => one.scrollWidth > one.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(one).overflowX));
  const bottom = last ? last.getBoundingClientRect().bottom + scrollY + 12 : page.scrollHeight;
  return [bottom, page.scrollWidth, scrolling.length];
})()"""


class Browser:
    """A page of a browser, driven by the DevTools protocol: JSON over two pipes, each message ended by a zero byte."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._buffer, self._asked = b"", 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method and return its answer. Events that come in between are kept."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while (answer := self._next(deadline - time.monotonic())) is not None:
            if answer.get("id") == self._asked:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])
        raise TimeoutError(f"{method}: the browser did not answer in {PATIENCE:g} s")

    def wait(self, event: str | None, seconds: float) -> None:
        """Receive events until one of that name has come, or for that many seconds."""
        deadline = time.monotonic() + seconds
        while not any(one["method"] == event for one in self.events):
            if self._next(deadline - time.monotonic()) is None:
                if event:
                    raise TimeoutError(f"{event}: not seen in {seconds:g} s")
                return

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message, or None if none comes in time. Events are kept."""
        deadline = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            if not (part := os.read(self._read, 1 << 20)):
                raise RuntimeError("the browser has ended")
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return dict(message)


@contextmanager
def browsing(executable: str) -> Iterator[Browser]:
    """Start a browser with an empty page, and end it afterwards."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    passed = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
    for end in (theirs_in, theirs_out):
        os.close(end)

    def place() -> None:  # the browser reads from 3 and writes to 4
        for end, number in zip(passed, (3, 4), strict=True):
            os.dup2(end, number)

    with TemporaryDirectory(prefix="resnet-xf-", ignore_cleanup_errors=True) as profile:
        command = [executable, *FLAGS, f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=quiet, stderr=quiet, preexec_fn=place, pass_fds=(3, 4))
        for end in passed:
            os.close(end)
        try:
            browser = Browser(ours_out, ours_in)
            target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
            browser.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            yield browser
            browser.session = None
            browser.ask("Browser.close")
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            os.close(ours_out)
            os.close(ours_in)


def complaints(events: list[dict[str, Any]], page: str) -> Iterator[str]:
    """Yield the requests other than for the page itself, and the console's messages."""
    for event in events:
        params = event["params"]
        match event["method"]:
            case "Network.requestWillBeSent" if params["request"]["url"].partition("#")[0] != page:
                yield f"request: {params['request']['url'][:200]}"
            case "Runtime.consoleAPICalled":
                yield f"console {params['type']}: {[one.get('value', one['type']) for one in params['args']]}"
            case "Runtime.exceptionThrown":
                yield f"exception: {params['exceptionDetails']['text']}"
            case "Log.entryAdded":
                yield f"log {params['entry']['level']}: {params['entry']['text']}"


def look(browser: Browser, page: str, arguments: argparse.Namespace) -> tuple[list[str], bytes]:
    """Open a page; return what is wrong with it, and its picture."""
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.ask(f"{domain}.enable")
    size = {"width": arguments.width, "height": 900, "deviceScaleFactor": arguments.scale}
    browser.ask("Emulation.setDeviceMetricsOverride", **size, mobile=arguments.width < 600)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if arguments.dark else "light"}
    browser.ask("Emulation.setEmulatedMedia", features=[scheme], media="print" if arguments.print else "")
    browser.ask("Page.navigate", url=page)
    browser.wait("Page.loadEventFired", PATIENCE)
    browser.wait(None, SETTLE)
    expression = MEASURE % json.dumps(f"#{arguments.until}" if arguments.until else "no-such-element")
    bottom, wide, scrolling = browser.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"][
        "value"
    ]
    problems = list(complaints(browser.events, page))
    if wide > arguments.width:
        problems.append(f"the page is {wide} pixels wide, the window {arguments.width}")
    if scrolling:
        problems.append(f"{scrolling} parts of the page scroll sideways")
    clip = {"x": 0, "y": 0, "width": arguments.width, "height": bottom, "scale": 1}
    shot = browser.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    return problems, base64.b64decode(shot["data"])


def save(picture: bytes, path: Path) -> None:
    """Write a picture with few colours."""
    with Image.open(io.BytesIO(picture)) as image:
        few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    few.save(path, optimize=True)
    print(f"{path}: {few.width}×{few.height}, {path.stat().st_size:,} bytes")


def main() -> int:
    """Take the picture and print what is wrong; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/report.png"))
    parser.add_argument("--until", default="accuracy", help="the id of the last section drawn; all if there is none")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--scale", type=float, default=1.0, help="pixels of the picture for each of the page")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--print", action="store_true", help="as it is printed")
    parser.add_argument("--browser", help=f"an executable (else the first of {', '.join(BROWSERS)})")
    arguments = parser.parse_args()
    executable = arguments.browser or next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        print("no Chromium is installed; name one by --browser", file=sys.stderr)
        return 2
    page = arguments.report.resolve(strict=True).as_uri()
    with browsing(executable) as browser:
        problems, picture = look(browser, page, arguments)
    save(picture, arguments.out)
    for complaint in problems:
        print(complaint)
    print(f"{len(problems)} requests, messages and overflows" if problems else "no request, no message")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
