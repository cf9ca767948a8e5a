"""Tiny folders in the layout in which GLUE publishes its tasks, with the oddities that its files have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

TEXTS = ["the film is good", '"we saw the film', "john works for acme", 'a "fine" game', "who is in paris", '5" is it']

Line = Callable[[int, str, str, int], list[str]]  # number, two texts, and a class or grade
MNLI = ["index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse"]
MNLI += ["sentence2_parse", "sentence1", "sentence2", "label1"]
STSB = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"]
NLI = ["entailment", "neutral", "contradiction"]
ENTAILS = ["entailment", "not_entailment"]
PAIR = ["index", "sentence1", "sentence2", "label"]

LAYOUTS: dict[str, tuple[list[str], Line]] = {
    "CoLA": ([], lambda i, a, b, c: ["gj04", str(c % 2), "*" if c % 2 else "", a]),
    "SST-2": (["sentence", "label"], lambda i, a, b, c: [f"{a} ", str(c % 2)]),
    "MRPC": (
        ["\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
        lambda i, a, b, c: [str(c % 2), str(i), str(i + 1), a, b],
    ),
    "QQP": (
        ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
        lambda i, a, b, c: [str(i), str(2 * i), str(2 * i + 1), a, b, str(c % 2)],
    ),
    "STS-B": (STSB, lambda i, a, b, c: [str(i), "news", "f", "2012", "1", "none", "none", a, b, f"{c % 6 * 0.9:.3f}"]),
    "MNLI": (
        [*MNLI, "gold_label"],
        lambda i, a, b, c: [str(i), "1", "1e", "x", "( a )", "( b )", "(ROOT)", "(ROOT)", a, b, "neutral", NLI[c % 3]],
    ),
    "QNLI": (["index", "question", "sentence", "label"], lambda i, a, b, c: [str(i), a, b, ENTAILS[c % 2]]),
    "RTE": (PAIR, lambda i, a, b, c: [str(i), a, b, ENTAILS[c % 2]]),
    "WNLI": (PAIR, lambda i, a, b, c: [str(i), a, b, str(c % 2)]),
}


def write_glue(folder: Path, name: str, rows: int = 24) -> Path:
    """The folder of one task, in ``folder``."""
    header, line = LAYOUTS[name]
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    for offset, part in enumerate(("train", "dev") if name != "MNLI" else ("train", "dev_matched", "dev_mismatched")):
        lines = ["\t".join(header)] if header else []
        for i in range(rows if part == "train" else 6):
            a, b = TEXTS[i % 6], f"{TEXTS[(i + 1 + offset) % 6]} {'now ' * (i // 6)}{part}"
            lines.append("\t".join(line(i, f"{a} {part} {i}", b, i + i // 6)))
        if name == "QQP" and part == "train":
            lines.insert(3, "77\t1\t2\ta question that goes")  # a broken line, and a question without text
            lines.insert(5, "\t".join(line(78, "", "what is it", 1)))
        (place / f"{part}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return place
