"""A headless Chromium, and the page of a Space as a person sees it."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def headless_chromium() -> Iterator:
    """Chromium that records its console and its requests; where it is missing, the test is skipped."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("there is no Chromium with its driver: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install .[test]")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1500"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        yield browser


def requests_of(browser) -> set[str]:
    """Returns the addresses that the browser has asked for since the last call."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return {one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"}


def wait_for(found: Callable[[], Any], what: str):
    """Returns what a function finds, as soon as it is something."""
    until = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < until, what
        time.sleep(0.2)
    return value


@contextlib.contextmanager
def served_space(app: Path, python: str | Path, **environment: str) -> Iterator[str]:
    """Runs the program in the folder of a Space, and gives its address; it is killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen(
        [str(python), str(app)], env={**os.environ, **settings, **environment}, stderr=subprocess.PIPE, text=True
    )
    until, address = time.monotonic() + 240, f"http://127.0.0.1:{port}/"
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address, timeout=30).close()
                break
            assert process.poll() is None and time.monotonic() < until, process.stderr.read()
            time.sleep(0.5)
        yield address
    finally:
        process.kill()
        process.wait()


class SpacePage:
    """What a person sees and clicks on in the page of a Space, which is opened."""

    def __init__(self, browser, address: str):
        self.browser = browser
        browser.get(address)
        wait_for(lambda: self.pictures(0), "no items")

    def all(self, selector: str) -> list:
        return [one for one in self.browser.find_elements("css selector", selector) if one.is_displayed()]

    def pictures(self, gallery: int) -> list:
        galleries = self.all(".gradio-gallery, .grid-wrap")
        return galleries[gallery].find_elements("css selector", "button") if len(galleries) > gallery else []

    def texts(self, selector: str) -> list[str]:
        """All at once: the page may change in between."""
        find = f"[...document.querySelectorAll('{selector}')].filter(one => one.offsetParent)"
        return self.browser.execute_script(f"return {find}.map(one => one.textContent)")

    def cards(self) -> list[str]:
        return self.texts(".card .title")

    def reasons(self) -> set[str]:
        return {reason.removeprefix("because of ") for reason in self.texts(".card .why")}

    def choose(self, *numbers: int) -> None:
        """Clicks on items of the catalogue, one after the other."""
        for count, number in enumerate(numbers, start=1):
            self.pictures(0)[number].click()
            wait_for(lambda count=count: len(self.pictures(1)) == count, "not chosen")

    def button(self, text: str):
        return next(one for one in self.all("button") if one.text.strip() == text)
