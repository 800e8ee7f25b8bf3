"""A real headless Chromium on a pipe: the DevTools protocol, with no driver between.

Source: https://chromedevtools.github.io/devtools-protocol, --remote-debugging-pipe: JSON messages
that end in a zero byte, to the browser on its descriptor 3 and from it on 4.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any, Self

from harness.tests.fakes import LATE_S

if TYPE_CHECKING:
    from pathlib import Path

BROWSERS = ("chromium-headless-shell", "chromium")


class Browser:
    """One page in a browser of its own; a context.

    Attributes:
        complaints: errors and warnings in its console, uncaught exceptions, refused requests.
        requests: URLs that the page asked for.
    """

    def __init__(self, profile: Path, *, width: int = 1280, height: int = 900) -> None:
        binary = next(filter(None, map(shutil.which, BROWSERS)), None)
        if binary is None:
            raise RuntimeError("no Chromium on this machine: run `ci/setup --tests`")
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._input = b""
        self._numbers = itertools.count(1)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._process = subprocess.Popen(
            # the shell puts the ends where the browser looks for them, whatever their numbers
            [
                *("bash", "-c", 'exec "$@" 3<&"$IN" 4>&"$OUT"', "bash", binary, "--headless"),
                *("--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"),
                *("--disable-dev-shm-usage", f"--user-data-dir={profile}", "about:blank"),
            ],
            env={**os.environ, "IN": str(theirs_in), "OUT": str(theirs_out)},
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        answer = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = answer["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **params: Any) -> Any:
        """Run a command of the protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while (answer := self._receive()).get("id") != number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, path: Path) -> None:
        """Open a file and wait until it has drawn itself."""
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.documentElement?.dataset.ready === 'yes'")

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or of the promise that it is."""
        how = {"returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", expression=expression, **how)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + LATE_S
        while not self.ask(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"

    def settle(self) -> None:
        """Wait until what was asked to be drawn is drawn, on another page if a click led there."""
        frame = "new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
        deadline = time.monotonic() + LATE_S
        while True:
            try:
                self.call("Runtime.evaluate", expression=frame, awaitPromise=True)
            except RuntimeError as error:
                if "navigated" not in str(error) or time.monotonic() >= deadline:
                    raise
            else:
                return

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        text: str = self.ask(f"document.querySelector({json.dumps(selector)}).textContent")
        return text

    def place(self, selector: str) -> tuple[float, float, float, float]:
        """Scroll to an element and return where it is: left, top, width and height in pixels."""
        box = self.ask(
            f"(e => {{ e.scrollIntoView({{block: 'start', behavior: 'instant'}});"
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        return tuple(box)

    def click(self, x: float, y: float, *, times: int = 1) -> None:
        """Click at a place in the window."""
        self.mouse("mouseMoved", x, y)
        for count in range(1, times + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.mouse(kind, x, y, button="left", clickCount=count)
        self.settle()

    def click_on(self, selector: str) -> None:
        """Click in the middle of an element."""
        left, top, width, height = self.place(selector)
        self.click(left + width / 2, top + height / 2)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Let the mouse do something at a place in the window."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def press(self, key: str, text_: str = "") -> None:
        """Press a key; `text_` is what it writes, if that is not its name."""
        written = text_ or (key if len(key) == 1 else "")
        text = {"text": written} if written else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.settle()

    def emulate(self, *, media: str = "", dark: bool = False) -> None:
        """Pretend to be a printer, or in the dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.settle()

    def screenshot(self, path: Path, *, whole: bool = True) -> bytes:
        """Write a PNG of the page, or of what is in the window, and return it."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        image = base64.b64decode(shot["data"])
        path.write_bytes(image)
        return image

    def _receive(self) -> dict[str, Any]:
        while True:
            line, end, rest = self._input.partition(b"\0")
            if end:
                self._input = rest
                message: dict[str, Any] = json.loads(line)
                return message
            ready, _, _ = select.select([self._in], [], [], LATE_S)
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                raise RuntimeError("the browser has gone, or does not answer")
            self._input += data

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded":
                self.complaints.append(str(params["entry"]))
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
