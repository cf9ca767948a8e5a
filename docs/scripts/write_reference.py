"""Write the pages of the reference that are made of the code: keys, commands, plug-ins and the Python interface.

python docs/scripts/write_reference.py            writes them, and removes those of things that are gone
python docs/scripts/write_reference.py --check    exit code 1 where a page is not what the code says, with its name
"""

from __future__ import annotations

import sys
from pathlib import Path

from pages import commands, config, interface, plugins
from pages.prose import NOTE

FOLDER = Path(__file__).resolve().parents[1] / "reference"


def pages() -> dict[Path, str]:
    """The text of every page."""
    found = {**config.pages(), **commands.pages(), **plugins.pages(), **interface.pages()}
    return {FOLDER / path: text.rstrip() + "\n" for path, text in found.items()}


def stale(wanted: dict[Path, str]) -> list[Path]:
    """Pages that are not what the code says: absent, different, or of something that is gone."""
    written = {page for page in FOLDER.rglob("*.md") if NOTE in page.read_text(encoding="utf-8")}
    return sorted(
        page
        for page in written | wanted.keys()
        if page not in wanted or page not in written or page.read_text(encoding="utf-8") != wanted[page]
    )


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` name those that are out of date."""
    wanted = pages()
    for page in stale(wanted):
        if "--check" in arguments:
            print(f"{page.relative_to(FOLDER.parents[1])} is out of date: python docs/scripts/write_reference.py")
        elif page in wanted:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(wanted[page], encoding="utf-8", newline="\n")
        else:
            page.unlink()
    return int("--check" in arguments and bool(stale(wanted)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
