"""The page on the architecture names what is there."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "development" / "architecture.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^\| \d+ \| `(\w+)` in \[[\w.]+\]\(\.\./\.\./([\w/.]+)\)", PAGE, re.MULTILINE)


def test_the_round_is_read_in_12_to_20_steps():
    assert 12 <= len(STEPS) <= 20


@pytest.mark.parametrize(("function", "path"), STEPS)
def test_each_step_is_where_the_page_says(function, path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.slow
@pytest.mark.parametrize("script", ["draw_rooms.py", "draw_concepts.py", "draw_stories.py"])
def test_pictures_are_what_their_script_draws(script):
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "scripts" / script), "--check"], cwd=ROOT)
    assert done.returncode == 0, f"python docs/scripts/{script} draws it anew"


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_and_files_resolve(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{target} leads nowhere"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{target}: no such heading"
