"""Take the pictures of a report that the page on reports shows, for light and for dark pages.

    atlas train experiment.yaml training.rounds=3      (the run of "Your own data")
    python docs/scripts/picture_report.py RUN          writes docs/images/report-light.png and report-dark.png

Needs Chromium (that of the system, or ``playwright install chromium``), so no test compares them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).resolve().parents[1] / "images"
WIDTH, HEIGHT = 1200, 530


def main(run: str) -> None:
    """Take both pictures of the upper end of a run's report."""
    page_file = (Path(run) / "report.html").resolve()
    path = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page.goto(page_file.as_uri())
            page.screenshot(path=IMAGES / f"report-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
