"""Look at a page in headless Chromium: what it shows, what it asks the network for, what its console says."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

BROWSERS = "chromium", "chromium-browser", "google-chrome"


class Browser:
    """One Chromium for all tests of a module; every page begins with empty logs."""

    def __init__(self) -> None:
        selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium")
        from selenium.webdriver.chrome.service import Service

        browser = next(filter(None, map(shutil.which, BROWSERS)), None)
        driver = shutil.which("chromedriver")
        if not browser or not driver:
            pytest.skip("needs Chromium and chromedriver (Debian: apt install chromium chromium-driver)")
        options = selenium.ChromeOptions()
        options.binary_location = browser
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = selenium.Chrome(options=options, service=Service(driver))
        self.requests: list[str] = []
        self.console: list[str] = []

    def open(self, page: Path, width: int = 1280, dark: bool = False, offline: bool = True) -> None:
        """Show a page; what it asked for is in `requests`, what it complained of in `console`."""
        command = self.driver.execute_cdp_cmd
        command("Network.enable", {})
        command("Network.emulateNetworkConditions",
                {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1})
        command("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
        command("Emulation.setDeviceMetricsOverride",
                {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})
        self.driver.get("about:blank")
        self.read_logs()
        self.driver.get(page.resolve().as_uri())
        self.read_logs()

    def read_logs(self) -> None:
        """Take what the browser has logged since the last time."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        self.requests = [entry["params"]["request"]["url"] for entry in entries
                         if entry["method"] == "Network.requestWillBeSent"]
        self.console = [entry["message"] for entry in self.driver.get_log("browser")]

    def run(self, script: str, *arguments: object) -> Any:
        """Return what a piece of JavaScript returns in the page."""
        return self.driver.execute_script(script, *arguments)

    def picture(self, file: Path, height: int | None = None) -> None:
        """Write the page, or its upper part, as PNG."""
        width, whole = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height or whole, whole), "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End Chromium."""
        self.driver.quit()
