"""A headless Chromium that tests drive over the DevTools protocol, through a pipe.

Nothing but the browser itself is needed: messages are JSON, ended by a zero byte, on its file
descriptors 3 (in) and 4 (out).
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
_KEYS = {"Enter": "\r", " ": " "}


class Browser:
    """One page; `errors` are the exceptions and console errors that it reported."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self.process, self._write, self._read = process, write, read
        self._buffer, self._id, self._session = b"", 0, ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if self._session and not method.startswith("Browser."):
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._id:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], 120)
            assert ready, "the browser is silent"
            got = os.read(self._read, 1 << 20)
            assert got, "the browser is gone"
            self._buffer += got
        head, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(head)
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:2000])
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"][:100])
        return message

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page and return its value (JSON)."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, path: Path, fragment: str = "") -> float:
        """Load a file and wait until it is drawn; return the seconds that it took."""
        start = time.perf_counter()
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=path.as_uri() + fragment)
        self.wait("location.protocol === 'file:' && document.readyState === 'complete'")
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return time.perf_counter() - start

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Wait until an expression is true in the page."""
        self.until(lambda: bool(self.run(condition)), condition, seconds)

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what} did not become true"
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        """Press keys, by their DOM names: "ArrowDown", "Enter", "x"."""
        for key in keys:
            text = _KEYS.get(key, key if len(key) == 1 else "")
            common = {"key": key, "windowsVirtualKeyCode": _code(key)}
            self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
            self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str, modifiers: int = 0) -> None:
        """Click the middle of an element with the mouse; modifiers: 2 is Ctrl."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place[0],
                y=place[1],
                button="left",
                clickCount=1,
                modifiers=modifiers,
            )

    def set(self, selector: str, value: str) -> None:
        """Set a field as a person does: its value and an input and a change event."""
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            f"e.value = {json.dumps(value)};"
            "for (const kind of ['input', 'change'])"
            "e.dispatchEvent(new Event(kind, {bubbles: true})); })()"
        )

    def screenshot(self, path: Path) -> None:
        """Write what is seen as PNG."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))


def _code(key: str) -> int:
    named = {"Enter": 13, "Escape": 27, "Tab": 9, "End": 35, "Home": 36, "ArrowLeft": 37}
    named |= {"ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
    return named.get(key, ord(key.upper()) if len(key) == 1 else 0)


@contextmanager
def browser(folder: Path, *, size: str = "1280,900", dark: bool = False) -> Iterator[Browser]:
    """Start Chromium with a profile in `folder`; end it."""
    assert CHROMIUM is not None
    (to_browser, write), (read, from_browser) = _pipe(), _pipe()

    def as_three_and_four() -> None:
        os.dup2(to_browser, 3)
        os.dup2(from_browser, 4)

    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    process = subprocess.Popen(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
            f"--window-size={size}",
            scheme,
        ],
        preexec_fn=as_three_and_four,
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Browser(process, write, read)
    finally:
        process.terminate()
        process.wait(20)
        os.close(write)
        os.close(read)


def _pipe() -> tuple[int, int]:
    """Return the reading and the writing end of a pipe, both above 3 and 4."""
    ends = os.pipe()
    read, write = (fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in ends)
    for fd in ends:
        os.close(fd)
    return read, write
