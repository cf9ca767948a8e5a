"""An HTML document that holds all it shows: no script, and no address of anything else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from atlas_cli.reports.charts import palette
from atlas_cli.reports.escaped import escape

AGAIN = 5  # seconds after which a page that still grows is loaded again
MARK = '<meta name="generator" content="atlas_cli">'  # by which a page is known
HEAD = 1000  # bytes of a page that have its mark


def document(title: str, header: str, sections: Mapping[str, str], *, again: bool = False) -> str:
    """The page as text.

    Args:
        header, sections: HTML that is escaped already; titles are not.
        again: the page is going to be written again.
    """
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a> ' for name in sections)
    body = "".join(
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>\n{part}</section>\n' for name, part in sections.items()
    )
    refresh = f'<meta http-equiv="refresh" content="{AGAIN}">' if again else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{MARK}'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">{refresh}<title>{escape(title)}</title>'
        f"<style>{palette.style()}\n{style}</style></head>\n"
        f'<body>{header}<nav aria-label="Sections">{links}</nav>\n<main>{body}</main></body></html>\n'
    )


def is_document(file: Path) -> bool:
    """Whether a file is a page that atlas made."""
    with file.open("rb") as opened:
        return MARK.encode() in opened.read(HEAD)


def _anchor(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())
