"""A real Chromium for tests, driven over its DevTools protocol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.programs import program
from tests.waiting import wait

PATIENCE = 30.0


class Page:
    """One tab. Everything is done as a script in it, and waits until it has come true."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self._call("Page.enable")

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        told = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(told))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE))
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        """What a script comes to; an exception in it is one here."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait until a script comes to something true."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                found = self.evaluate(script)
            except RuntimeError:  # the page is being replaced by the next one
                found = None
            if found:
                return found
            time.sleep(0.02)
        text = self.evaluate("document.body ? document.body.innerText : ''")
        raise AssertionError(f"{script} did not come true; the page says:\n{text}")

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self._call("Page.navigate", url=url)
        wanted = json.dumps(url)
        self.until(f"location.href.startsWith({wanted}) && document.readyState == 'complete'")

    def fill(self, name: str, value: str) -> None:
        """Type into the field of that name, as its listeners expect."""
        field = f"document.querySelector('[name={json.dumps(name)}]')"
        self.until(f"!!{field}")
        self.evaluate(
            f"(() => {{ const field = {field}; field.focus(); field.value = {json.dumps(value)};"
            " field.dispatchEvent(new Event('input', {bubbles: true}));"
            " field.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def click(self, selector: str) -> None:
        """Click what a CSS selector finds, and wait until another page is there if one comes."""
        self.until(f"!!document.querySelector({json.dumps(selector)})")
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def text(self) -> str:
        """What a person reads."""
        return str(self.evaluate("document.body.innerText"))


@contextmanager
def browser() -> Iterator[Page]:
    """A fresh Chromium without a window. Raises RuntimeError with the line to install it."""
    chromium = program("chromium", "chromium")
    with tempfile.TemporaryDirectory(prefix="tollway-chromium-") as folder:
        process = subprocess.Popen(
            [
                *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-dev-shm-usage", "--disable-background-networking"),
                *("--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            port = _port(Path(folder) / "DevToolsActivePort", process)
            listed = urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE)
            tab = next(one for one in json.load(listed) if one["type"] == "page")
            with connect(tab["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            # Its helpers go on writing into the folder for a moment, and would keep it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            wait("all of chromium is gone", lambda: not _lives(process.pid))


def _lives(group: int) -> bool:
    """Whether a process of the group is there that has not ended."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # Behind the name, which stands in parentheses: state, parent, group.
            state, _, its_group, *_ = file.read_text().rpartition(") ")[2].split()
            if int(its_group) == group and state not in "ZX":
                return True
    return False


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) >= 2:
            return int(lines[0])
        time.sleep(0.05)
    raise RuntimeError(f"chromium did not start (exit code {process.poll()})")
