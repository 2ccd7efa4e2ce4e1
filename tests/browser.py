"""A real headless Chromium, spoken to by W3C WebDriver through chromedriver on loopback."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.direct import DIRECT

PATIENCE = 50.0
"""Seconds for one request to the driver; the machine may be busy."""

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One browser with one window, while the context lasts. It has a profile of its own."""

    def __enter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(
            prefix="hdev-browser-", ignore_cleanup_errors=True
        )
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # the browser is of its group, and ends with it
            env={**os.environ, "HOME": self._profile.name},
        )
        try:
            self._http = httpx.Client(
                base_url=f"http://127.0.0.1:{self._port()}", timeout=PATIENCE, **DIRECT
            )
            made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": self._wanted()}})
        except BaseException:
            self._end()
            raise
        self._session = f"/session/{made['sessionId']}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._ask("DELETE", self._session)
        finally:
            self._http.close()
            self._end()

    def _end(self) -> None:
        self._driver.terminate()
        try:
            self._driver.wait(timeout=PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._driver.pid, signal.SIGKILL)
            self._driver.wait(timeout=PATIENCE)
            self._profile.cleanup()

    def _port(self) -> int:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            if "started successfully on port" in line:
                # Whatever it and the browser say further is taken from them, or they would wait.
                threading.Thread(target=self._drain, daemon=True).start()
                return int(line.rstrip(".\n").rpartition(" ")[2])
        raise AssertionError("chromedriver did not start")

    def _drain(self) -> None:
        assert self._driver.stdout is not None
        with self._driver.stdout as said:
            said.read()

    def _wanted(self) -> dict[str, Any]:
        switches = [
            "--headless=new",
            f"--user-data-dir={self._profile.name}/profile",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--window-size=1280,900",
        ]
        if os.geteuid() == 0:
            switches.append("--no-sandbox")  # Chromium does not start its sandbox as root
        return {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": switches, "binary": shutil.which("chromium")},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, path, json=body if method == "POST" else None)
        found = answer.json()["value"]
        if answer.is_error:
            raise AssertionError(f"{method} {path}: {found}")
        return found

    def _told(self, path: str, **body: Any) -> Any:
        return self._ask("POST", self._session + path, body)

    def devtools(self, command: str, **parameters: Any) -> Any:
        """One command of the DevTools protocol."""
        return self._told("/goog/cdp/execute", cmd=command, params=parameters)

    def open(self, page: Path) -> None:
        """Load a file; what was logged before is forgotten."""
        self.console()
        self.requests()
        self._told("/url", url=page.as_uri())

    def run(self, script: str, *values: Any) -> Any:
        """What a script returns that runs in the page."""
        return self._told("/execute/sync", script=script, args=list(values))

    def texts(self, selector: str) -> list[str]:
        """The whole text of each element that is shown."""
        script = """return [...document.querySelectorAll(arguments[0])]
            .filter((node) => node.checkVisibility()).map((node) => node.textContent)"""
        found: list[str] = self.run(script, selector)
        return found

    def click(self, selector: str) -> None:
        """A click as a person does it: the element has to be there to be hit."""
        found = self._told("/element", using="css selector", value=selector)
        self._told(f"/element/{found[ELEMENT]}/click")

    def type(self, selector: str, text: str) -> None:
        found = self._told("/element", using="css selector", value=selector)
        self._told(f"/element/{found[ELEMENT]}/value", text=text)

    def press(self, *keys: str) -> None:
        """Press and release keys, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._told("/actions", actions=[{"type": "key", "id": "keys", "actions": strokes}])

    def console(self) -> list[str]:
        """What was written to the console since the last call, errors of the policy included."""
        return [entry["message"] for entry in self._told("/se/log", type="browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call, and not stopped by the policy."""
        events = [
            json.loads(entry["message"])["message"]
            for entry in self._told("/se/log", type="performance")
        ]
        stopped = {
            event["params"]["requestId"]
            for event in events
            if event["params"].get("blockedReason") == "csp"
        }
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
            and event["params"]["requestId"] not in stopped
        ]

    def dialog(self) -> str | None:
        """The text of an alert that is open, None where none is."""
        answer = self._http.get(self._session + "/alert/text")
        if answer.json()["value"] is not None and answer.status_code == 200:
            return str(answer.json()["value"])
        return None

    def window(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        wished = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce",  # else a click hits where its element was
        }
        features = [{"name": name, "value": value} for name, value in wished.items()]
        self.devtools("Emulation.setEmulatedMedia", media="", features=features)

    def picture(self, *, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def paper(self) -> bytes:
        """The page as it is printed, a PDF."""
        return base64.b64decode(self._told("/print", background=True))
