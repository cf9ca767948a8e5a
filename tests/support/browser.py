"""Chromium for tests that look at pages: that of the system, or the one that playwright fetched."""

import shutil

import pytest

SYSTEM = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing (pip install playwright)")
    with playwright.sync_playwright() as driver:
        path = next((found for name in SYSTEM if (found := shutil.which(name))), None)
        try:
            # --no-sandbox: in containers there is none; the page is the tests' own
            opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium here (playwright install chromium): {str(error).splitlines()[0]}")
        yield opened
        opened.close()
