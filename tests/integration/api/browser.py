"""Control a real Chromium over its debugging pipe (Chrome DevTools Protocol), without driver or package."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.conftest import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    # The sandbox does not start for root in a container.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "--window-size=1440,1000",
)


class Tab:
    """One tab; *errors* holds console errors, blocked resources and failed requests."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests = requests
        self._answers = answers
        self._unread = b""
        self._ids = itertools.count(1)
        self._session: str | None = None
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._target = target
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        self._session = None
        self._call("Target.closeTarget", targetId=self._target)

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression; a promise is awaited."""
        options = {"returnByValue": True, "awaitPromise": True}
        return self._call("Runtime.evaluate", expression=expression, **options)["result"].get("value")

    def before_scripts(self, expression: str) -> None:
        """Evaluate an expression in each page that is opened from now on, before its own scripts."""
        self._call("Page.addScriptToEvaluateOnNewDocument", source=expression)

    def press(self, key: str, *, command: str | None = None, shift: bool = False) -> None:
        """Press and release a key: a character, or the name of a key; with Ctrl for an editing *command*."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27}.get(key, 0)
        event: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        pressed: dict[str, Any] = {"text": "\r" if key == "Enter" else key if len(key) == 1 else ""}
        if command is not None:
            pressed = {"modifiers": 2, "commands": [command]}
        self._call("Input.dispatchKeyEvent", type="keyDown", **(event | pressed))
        self._call("Input.dispatchKeyEvent", type="keyUp", **event)

    def write(self, text: str) -> None:
        """Enter text where the focus is."""
        self._call("Input.insertText", text=text)

    def permit_clipboard(self) -> None:
        self._call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        self._call("Page.bringToFront")

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def emulate(self, **features: str) -> None:
        """Set media features, with _ for -: `forced_colors="active"`."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self._call("Emulation.setEmulatedMedia", features=named)

    def wait(self, expression: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"never true: {expression}; errors: {self.errors}"
            time.sleep(0.05)

    def without_scripts(self) -> None:
        self._call("Emulation.setScriptExecutionDisabled", value=True)

    def print_pdf(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.printToPDF", preferCSSPageSize=True)["data"]))

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page, or of the part that is in view."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(shot))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            more = os.read(self._answers, 1 << 16)
            assert more, "the browser ended"
            self._unread += more
        answer, self._unread = self._unread.split(b"\0", 1)
        received: dict[str, Any] = json.loads(answer)
        return received

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("sessionId") != self._session:
            return  # of a tab closed before
        if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.errors.append(event["params"]["entry"]["text"])
        if event["method"] == "Runtime.exceptionThrown":
            self.errors.append(event["params"]["exceptionDetails"]["text"])


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Callable[[], Tab]]:
    """Start a browser and yield a function that opens a tab, one at a time; skip (in CI: fail) without Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        missing("a Chromium")
    to_browser, requests = os.pipe()
    answers, from_browser = os.pipe()
    # Chromium reads from its file descriptor 3 and writes to 4; the shell redirects these pipes to them.
    command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
    process = subprocess.Popen(
        ["bash", "-c", command, str(program), *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(to_browser, from_browser),
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield partial(Tab, requests, answers)
    finally:
        # Closing the pipe ends the browser and all its children.
        os.close(requests)
        process.wait(timeout=20)
        os.close(answers)
