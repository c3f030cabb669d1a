"""A headless Chromium driven over the WebDriver protocol with nothing but the standard library."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = None if DRIVER and BROWSER else "no chromium and chromedriver on the PATH (apt-get install chromium-driver)"


class Browser:
    """One headless browser with one tab. `requests` are all URLs that it asked for, `messages` its console."""

    def __init__(self, width: int = 1280, height: int = 1000, dark: bool = False) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._driver = subprocess.Popen(
            [str(DRIVER), f"--port={self._port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        arguments += [f"--window-size={width},{height}", "--disable-background-networking", "--no-first-run"]
        if dark:
            arguments.append("--blink-settings=preferredColorScheme=0")
        capabilities = {
            "goog:chromeOptions": {"binary": BROWSER, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self._session = ""
        for _ in range(100):
            try:
                answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
                self._session = f"/session/{answer['sessionId']}"
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        assert self._session, "chromedriver did not start"
        self.requests: list[str] = []

    def open(self, url: str) -> None:
        """Go to a page and wait until it has loaded."""
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a JavaScript function returns; `arguments[0]`, ... are the arguments."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script: str, *arguments: Any, seconds: float = 20.0) -> Any:
        """Repeat a script until it returns something true, and return that."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.run(script, *arguments)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"never became true: {script}")

    def click(self, selector: str) -> None:
        """Click the first element that a CSS selector finds, as a person does."""
        key = "element-6066-11e4-a52e-4f735466cecf"
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        found = self._call("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        self._call("POST", f"{self._session}/element/{found[key]}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type into the element that a CSS selector finds."""
        key = "element-6066-11e4-a52e-4f735466cecf"
        found = self._call("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        self._call("POST", f"{self._session}/element/{found[key]}/value", {"text": text})

    def errors(self) -> list[str]:
        """Warnings and errors on the console since the last call."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def asked_for(self) -> list[str]:
        """The URLs that the page asked for since the last call, without `data:` and `blob:`."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def emulate(self, width: int, height: int, scale: float = 1.0) -> None:
        """The screen of another device."""
        values = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **values)

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the Chrome DevTools protocol."""
        return self._call("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Save what is on the screen, or the whole page, as PNG."""
        if whole:
            shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        else:
            shot = self._call("GET", f"{self._session}/screenshot")
        path.write_bytes(base64.b64decode(shot))

    def close(self) -> None:
        """End the browser and its driver."""
        try:
            if self._session:
                self._call("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait(10)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None
