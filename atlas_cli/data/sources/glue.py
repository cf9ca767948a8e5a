"""``data: {glue: glue_data/CoLA}``: a task of GLUE (Wang et al., 1804.07461), from a folder as GLUE publishes it.

The folder has train.tsv and dev.tsv (MNLI: dev_matched.tsv and dev_mismatched.tsv), as unpacked from GLUE's own
archives, and its name is the task's: CoLA, SST-2, MRPC, QQP, STS-B, MNLI, QNLI, RTE or WNLI. Where there is no such
folder the name alone (``glue: CoLA``) is read from the hub. The test part is the dev part, whose labels are public;
``test_split: mismatched`` takes MNLI's other one. Columns are text, text_pair and label under the names that the hub
has for classes, so that both are the same rows.

Fields of the files are not quoted. Lines with other columns than the first, and rows without a text, are left out, as
GLUE's own readers do (QQP has some), and counted in a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from atlas_cli.data.formats.text import lines_of, read_text
from atlas_cli.data.rows import Rows, SourceRows, digest, single_location
from atlas_cli.data.sources import hub
from atlas_cli.data.sources.contract import BaseSource
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.suggest import did_you_mean

if TYPE_CHECKING:
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig

_HUB = "nyu-mll/glue"


class _Layout(NamedTuple):
    """Columns of a task: its texts and label in GLUE's files, and its texts on the hub.

    Attributes:
        classes: in the order of their numbers; none: labels are numbers.
        header: of files that have none.
    """

    texts: Sequence[str]
    label: str
    on_hub: Sequence[str]
    classes: Sequence[str] = ()
    header: Sequence[str] = ()


_PAIR = ("sentence1", "sentence2")
_ENTAILS = ("entailment", "not_entailment")
LAYOUTS = {
    "CoLA": _Layout(
        ("sentence",), "label", ("sentence",), ("unacceptable", "acceptable"), ("source", "label", "star", "sentence")
    ),
    "SST-2": _Layout(("sentence",), "label", ("sentence",), ("negative", "positive")),
    "MRPC": _Layout(("#1 String", "#2 String"), "Quality", _PAIR, ("not_equivalent", "equivalent")),
    "QQP": _Layout(
        ("question1", "question2"), "is_duplicate", ("question1", "question2"), ("not_duplicate", "duplicate")
    ),
    "STS-B": _Layout(_PAIR, "score", _PAIR),
    "MNLI": _Layout(_PAIR, "gold_label", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "QNLI": _Layout(("question", "sentence"), "label", ("question", "sentence"), _ENTAILS),
    "RTE": _Layout(_PAIR, "label", _PAIR, _ENTAILS),
    "WNLI": _Layout(_PAIR, "label", _PAIR, ("not_entailment", "entailment")),
}


class Source(BaseSource):
    """A task of GLUE."""

    keys = ("test_split",)

    def load(self, data: DataConfig, key: str) -> SourceRows:
        """Rows of the training part, and of the dev part to test on.

        Raises:
            ConfigError: no task of GLUE, or a file of another layout; names file and line.
            ResourceError: a file is missing, or the hub cannot be read.
        """
        location = single_location(data, key)
        name = _task(Path(location).name, f"{key}.glue")
        dev = "dev" if name != "MNLI" else f"dev_{_part_of_mnli(data.test_split, key)}"
        if name != "MNLI" and data.test_split is not None:
            raise ConfigError("is for MNLI alone, which has two dev parts", key=f"{key}.test_split")
        notes: list[str] = []
        if Path(location).is_dir():
            train, test = (_read(Path(location) / f"{part}.tsv", name, key, notes) for part in ("train", dev))
            origin = f"GLUE {name} in {location}"
        elif Path(location).name != location:
            raise ResourceError(
                f"{key}.glue: no folder {location}; unpack {name}.zip of GLUE there, or give {name} alone"
            )
        else:
            split = dev.replace("dev", "validation")
            train, test = (_from_hub(name, part, key, notes) for part in ("train", split))
            origin = f"GLUE {name} of the hub"
        return SourceRows(train, test, origin, digest(train, test), notes=tuple(notes))


def _task(given: str, key: str) -> str:
    known = {name.lower().replace("-", ""): name for name in LAYOUTS}
    found = known.get(given.lower().replace("-", "").replace("_", ""))
    if found is None:
        raise ConfigError(f"{given!r} is no task of GLUE{did_you_mean(given, LAYOUTS)}", key=key)
    return found


def _part_of_mnli(given: str | None, key: str) -> str:
    if given not in (None, "matched", "mismatched"):
        raise ConfigError(f"{given!r} is no dev part of MNLI; expected matched or mismatched", key=f"{key}.test_split")
    return given or "matched"


def _read(path: Path, name: str, key: str, notes: list[str]) -> Rows:
    """The rows of a file.

    Raises:
        ConfigError: a column or label of another layout.
        ResourceError: there is no such file.
    """
    if not path.is_file():
        raise ResourceError(f"{key}.glue: no file {path}; the folder of {name} has train.tsv and dev.tsv files")
    lines, layout = lines_of(read_text(path, f"{key}.glue")), LAYOUTS[name]
    header = list(layout.header) or lines[0].split("\t")
    wanted = (*layout.texts, layout.label)
    if missing := [column for column in wanted if column not in header]:
        raise ConfigError(
            f"{path}:1: no column {missing[0]!r}{did_you_mean(missing[0], header)}; GLUE's {name} has it",
            key=f"{key}.glue",
        )
    rows, others = [], 0
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        if len(cells) != len(header):
            others += bool(line)
        elif number > 1 or layout.header:
            row = dict(zip(header, cells, strict=True))
            label = _label(row[layout.label], layout, f"{path}:{number}", key)
            rows.append((*(row[column] for column in layout.texts), label))
    if others:
        notes.append(f"{path}: {others:,} lines have other columns than the first, and are left out")
    return list(_rows(rows, str(path), notes))


def _label(text: str, layout: _Layout, place: str, key: str) -> str:
    if not layout.classes or text in layout.classes:
        return text
    if text.isdigit() and int(text) < len(layout.classes):
        return layout.classes[int(text)]
    raise ConfigError(f"{place}: label {text!r:.40} is none of {', '.join(layout.classes)}", key=f"{key}.glue")


def _from_hub(name: str, split: str, key: str, notes: list[str]) -> Rows:
    layout = LAYOUTS[name]
    found = hub.rows_of(_HUB, name.lower().replace("-", ""), split, f"{key}.glue")
    rows = [(*(row[column] for column in layout.on_hub), row["label"]) for row in found]
    return list(_rows(rows, f"{_HUB} {split}", notes))


def _rows(found: Sequence[tuple[str, ...]], where: str, notes: list[str]) -> Iterator[dict[str, str]]:
    """Rows under the names of the task's fields, less those without a text."""
    empty = 0
    for *texts, label in found:
        if all(text.strip() for text in texts):
            yield {**dict(zip(("text", "text_pair"), texts, strict=False)), "label": label}
        else:
            empty += 1
    if empty:
        notes.append(f"{where}: {empty:,} rows have no text, and are left out")
