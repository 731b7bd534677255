"""A real browser without a window, for the page."""

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
    """Why there can be no browser here; None if there can."""
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
    Chromium, driven by selenium.

    @ivar driver: selenium's own.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Go there, and forget what went before."""
        self.driver.get("about:blank")
        self.messages()
        self.loaded()
        self.driver.get(url)

    def look_like(self, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """The size of the window, and what the user likes."""
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
        """What a script in the page returns."""
        return self.driver.execute_script(text)

    def text(self, selector: str) -> str:
        """What is to be read there; empty where there is nothing to be seen."""
        found: str = self.script(
            f"const found = document.querySelector({json.dumps(selector)});"
            "return found && found.checkVisibility() ? found.innerText : ''"
        )
        return re.sub(r"\n\n+", "\n", found)

    def wait_for(self, selector: str, text: str) -> None:
        """Until this is to be read there."""
        wait_until(lambda: text in self.text(selector), f"{text!r} in {selector}")

    def wait_until(self, question: Callable[[], Any], what: str) -> Any:
        """Its first answer that is not false."""
        return wait_until(question, what)

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def click(self, selector: str) -> None:
        """Click there as a mouse does."""
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def button(self, model: str, text: str) -> Any:
        """A model's button."""
        return self.driver.find_element(
            "xpath", f"//tr[.//b[text()='{model}']]//button[text()='{text}']"
        )

    def messages(self) -> list[str]:
        """What the console has got since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def loaded(self) -> list[str]:
        """The addresses that were asked for since the last time."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found

    def picture(self, file: Path, *, whole: bool = False) -> None:
        """Take a picture of what is to be seen, or of the whole page."""
        data = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole}
        )
        file.write_bytes(base64.b64decode(data["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """One that lives as long as the block."""
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
