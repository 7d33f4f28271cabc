"""The Operating point tab in a real browser, as a user goes through it; needs Debian's chromium and chromium-driver."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from tests.locust_process import PATIENCE_S, Page, ui

if TYPE_CHECKING:
    from selenium.webdriver.remote.webelement import WebElement

_SEALED = (  # no traffic but to loopback, and nothing that a container lacks
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1300,1300",
)  # fmt: skip


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    """Open a headless browser that saves what it downloads in `tmp_path`."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("Debian's chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in _SEALED:
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield opened
    finally:
        opened.quit()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """Serve `opfind ui` on the bundled server."""
    with ui("--start-rps", "100", "--max-rps", "400", folder=tmp_path) as served:
        yield served


def _press(browser: WebDriver, name: str) -> None:
    """Press a button of Locust's page, as soon as it is there and stays where it is: the form unfolds."""
    browser.switch_to.default_content()
    seen: list[tuple[WebElement, dict[str, int]]] = []

    def pressed() -> bool:
        buttons = browser.find_elements(By.TAG_NAME, "button")
        now = [(button, button.location) for button in buttons if button.text.strip().upper() == name]
        is_still, seen[:] = bool(now) and now == seen, now
        if is_still:
            now[0][0].click()
        return is_still

    _until(browser, pressed, pause_s=0.4)


def _enter(browser: WebDriver, name: str, text: str) -> None:
    """Fill a field of the start form."""
    _until(browser, lambda: browser.find_element(By.NAME, name).is_displayed())
    field = browser.find_element(By.NAME, name)
    browser.execute_script("arguments[0].value = ''", field)
    field.send_keys(text)


def _until(browser: WebDriver, is_so: Callable[[], bool], *, pause_s: float = 0.1) -> None:
    """Wait until it is so; what is redrawn in between is asked again."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if is_so():
                return
        except WebDriverException:
            pass
        assert time.monotonic() < deadline, browser.find_element(By.TAG_NAME, "body").text
        time.sleep(pause_s)


def _steps(browser: WebDriver) -> int:
    """Return how many steps the curve in the tab has."""
    browser.switch_to.default_content()
    browser.switch_to.frame("operating-point")
    drawn = browser.find_elements(By.CSS_SELECTOR, "svg.curve")
    return int(drawn[0].get_attribute("data-steps") or 0) if drawn else 0


def _tab(browser: WebDriver) -> str:
    browser.switch_to.default_content()
    browser.switch_to.frame("operating-point")
    return browser.find_element(By.ID, "live").text


def _status(browser: WebDriver) -> str:
    """Return what the bar at the top says of the test."""
    browser.switch_to.default_content()
    return browser.find_element(By.CSS_SELECTOR, ".MuiAppBar-root").text.partition("Status\n")[2].partition("\n")[0]


def test_a_search_from_start_to_report(browser: WebDriver, page: Page, tmp_path: Path) -> None:
    """Start, watch the curve grow, stop, start again with another budget, download the report, open it."""
    browser.get(page.base)
    _press(browser, "START")
    _until(browser, lambda: _steps(browser) >= 1)
    seen = _steps(browser)
    _until(browser, lambda: _steps(browser) > seen)
    assert "SEARCHING" in _tab(browser)
    assert "of at most 3 min" in _tab(browser)
    _press(browser, "STOP")
    _until(browser, lambda: "INTERRUPTED" in _tab(browser))
    _press(browser, "NEW")
    _enter(browser, "budget", "2s")
    _press(browser, "START")
    _until(browser, lambda: "Earlier searches" in _tab(browser) and "Open the report" in _tab(browser))
    _until(browser, lambda: _status(browser) == "STOPPED")  # Locust's page has noticed the end by itself
    browser.switch_to.frame("operating-point")
    browser.find_element(By.LINK_TEXT, "Download it").click()
    _until(browser, lambda: any(tmp_path.glob("opfind-*.html")))
    assert "p99<200ms" in next(tmp_path.glob("opfind-*.html")).read_text(encoding="utf-8").replace("&lt;", "<")
    browser.find_element(By.LINK_TEXT, "Open the report").click()
    _until(browser, lambda: len(browser.window_handles) == 2)
    browser.switch_to.window(browser.window_handles[1])
    _until(browser, lambda: "Latency" in browser.find_element(By.TAG_NAME, "body").text)
    assert browser.find_elements(By.CSS_SELECTOR, "svg")
