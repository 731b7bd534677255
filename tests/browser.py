"""This module opens the page in a real browser that has no window."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.daemon import wait_until

__all__ = ["PAGE", "Browser", "browser", "why_not"]

PAGE = Path(__file__).parent.parent / "llmux" / "admin" / "page.html"


def why_not() -> str | None:
    """Tell why there can be no browser here; None if there can."""
    for program in "chromium", "chromedriver":
        if shutil.which(program) is None:
            return f"there is no {program}: apt-get install chromium chromium-driver"
    try:
        import selenium  # noqa: F401  # whether it is there
    except ImportError:
        return "there is no selenium: pip install selenium"
    return None


class Browser:
    """
    This browser is Chromium, driven by selenium.

    @ivar driver: the driver of selenium.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Open this address, and forget the messages of the page before."""
        self.driver.get("about:blank")
        self.messages()
        self.loaded()
        self.driver.get(url)

    def look_like(self, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Set the size of the window in pixels, and whether the user prefers dark colours."""
        command = self.driver.execute_cdp_cmd
        command(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        scheme = "dark" if dark else "light"
        command(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )

    def script(self, text: str) -> Any:
        """Run a script in the page, and return its value."""
        return self.driver.execute_script(text)

    def text(self, selector: str) -> str:
        """Return the text that can be read in an element; empty where nothing can be seen."""
        found: str = self.script(
            f"const found = document.querySelector({json.dumps(selector)});"
            "return found && found.checkVisibility() ? found.innerText : ''"
        )
        return re.sub(r"\n\n+", "\n", found)

    def wait_for(self, selector: str, text: str) -> None:
        """Wait until this text can be read in an element."""
        wait_until(lambda: text in self.text(selector), f"{text!r} in {selector}")

    def wait_until(self, question: Callable[[], Any], what: str) -> Any:
        """Wait for the first answer that is not false, and return it."""
        return wait_until(question, what)

    def press(self, *keys: str) -> None:
        """Press keys; they go to the element that has the focus."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def click(self, selector: str) -> None:
        """Click on an element as a mouse does."""
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def button(self, model: str, text: str) -> Any:
        """Find a button in the row of a model."""
        return self.driver.find_element(
            "xpath", f"//tr[.//b[text()='{model}']]//button[text()='{text}']"
        )

    def messages(self) -> list[str]:
        """Return the messages that the console has got since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def loaded(self) -> list[str]:
        """Return the addresses that were asked for since the last call."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found

    def picture(self, file: Path, *, whole: bool = False) -> None:
        """Take a picture of the visible part of the page, or of the whole page."""
        data = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole}
        )
        file.write_bytes(base64.b64decode(data["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser until the end of the C{with} block."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=Service(shutil.which("chromedriver") or "")
    )
    try:
        yield Browser(driver)
    finally:
        driver.quit()
