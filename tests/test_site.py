"""The documentation site, built and opened from the disk in Chromium: search, both schemes, a phone, no network."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
pytest.importorskip("zensical", reason="the extra docs is not installed")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site that was built with warnings as errors."""
    folder = tmp_path_factory.mktemp("documentation")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture
def page(browser):
    """Opens pages, and in the end says whether one logged an error or asked the network for something."""
    wrong, opened = [], []

    def open_page(width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
        opened.append(page)
        return page

    yield open_page
    for each in opened:
        each.close()
    assert not wrong


def test_search_finds_a_key_and_a_message(site, page):
    tab = page()
    tab.goto((site / "index.html").as_uri())
    for words, found in (("on_truncated", "config/training.html"), ("safetensors only", "troubleshooting.html")):
        tab.keyboard.press("/")
        tab.locator("input").first.wait_for(state="attached")
        tab.keyboard.type(words)
        tab.locator(f"a[href*='{found}'] >> visible=true").first.wait_for(timeout=8000)
        tab.keyboard.press("Escape")
        tab.reload()


def test_every_page_fits_a_phone(site, page):
    tab, wide = page(width=420), []
    for file in sorted(set(site.rglob("*.html")) - {site / "404.html"}):  # which a server shows, from its root
        tab.goto(file.as_uri())
        if tab.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1"):
            wide.append(file.relative_to(site).as_posix())
    assert not wide


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_drawing_is_shown_in_the_scheme_of_the_page(site, page, scheme):
    tab = page(scheme=scheme)
    tab.goto((site / "concepts" / "clock.html").as_uri())
    shown = [picture.get_attribute("src") for picture in tab.locator("article img").all() if picture.is_visible()]
    assert len(shown) == 1 and f"clock-{scheme}.svg" in shown[0]
