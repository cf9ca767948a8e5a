"""The table of ``atlas plan``: one row per candidate of the front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from atlas_cli.planning.joint.candidate import Candidate
from atlas_cli.planning.joint.figures import Figures
from atlas_cli.planning.joint.search import Found, Search
from atlas_cli.planning.joint.space import CUT, applied, codec_of_both
from atlas_cli.reports.fitted import Column, fitted_table
from atlas_cli.units import MB, MIB, format_number

SHOWN = 16  # rows of the table

FIGURES: dict[str, Callable[[Figures], float | None]] = {
    "MiB": lambda f: f.memory / MIB,
    "seconds": lambda f: f.seconds,
    "joules": lambda f: f.joules,
    "MB": lambda f: f.bytes / MB,
    "leakage": lambda f: f.leakage,
}
PEAK = "MiB: the largest predicted peak of a client"
OF_A_ROUND = {"seconds": "seconds", "joules": "joules", "MB": "MB (both ways)"}
CHANGES = "changes: places along your lists from the file's values, mean over clients"


def plan_table(search: Search, front: Sequence[Found], chosen: int | None, width: int) -> Table:
    """The figures of candidates and what they set, at most ``SHOWN`` of the front, the chosen one among them."""
    places = _shown(len(front), chosen)
    rows = [front[place] for place in places]
    columns = [Column("", [">" if place == chosen else "" for place in places])]
    columns += [Column("cut", [_cuts(row.candidate) for row in rows], right=True)]
    for heading, read in FIGURES.items():
        values = [read(row.figures) for row in rows]
        if any(value is not None for value in values):
            columns.append(Column(heading, [_number(value) for value in values], right=True))
    of_a_round = ", ".join(said for heading, said in OF_A_ROUND.items() if heading in [c.heading for c in columns])
    caption = f"{PEAK}; {of_a_round}: of all clients in a round"
    if any(row.figures.changes for row in rows):
        columns.append(Column("changes", [_number(row.figures.changes) for row in rows], right=True))
        caption += f"\n{CHANGES}"
    columns.append(Column("settings", [settings_text(search, row.candidate) for row in rows], folds=True))
    if len(places) < len(front):
        caption += f"\n{len(places)} of {len(front)} shown, spread over the memory; --json has all"
    bold = None if chosen is None else places.index(chosen)
    return fitted_table(columns, width, "Candidates that none is better than", caption, bold)


def settings_text(search: Search, candidate: Candidate) -> str:
    """What a candidate sets where it is not as the file has it; split layers only where they differ."""
    config, kinds, shared = search.config, search.kinds, candidate.shared
    texts = []
    if shared.batch != config.training.batch_size:
        texts.append(f"batches of {shared.batch}")
    if shared.codec not in (None, codec_of_both(config)):
        texts.append(f"codec {shared.codec}")
    settings = [(path[1:], value) for path, value in candidate.settings(config, kinds) if path[0] == "clients"]
    by_kind = []
    for kind, option in zip(kinds, candidate.options, strict=True):
        named = {crew.name for crew in kind.crews}
        own = [] if len(candidate.cuts) == 1 else [f"cut {dict(option)[CUT]}"]
        own += [_said(key, value) for (name, key), value in settings if name in named and key != CUT]
        by_kind.append(list(dict.fromkeys(own)))
    alike = [text for text in by_kind[0] if all(text in own for own in by_kind)]
    names: dict[str, list[str]] = {}
    for kind, own in zip(kinds, by_kind, strict=True):
        names.setdefault(", ".join(text for text in own if text not in alike), []).append(kind.name)
    texts += [", ".join(alike)] if alike else []
    if len(names) > 1:
        texts += [
            f"{', '.join(found)}: {text or ('no more' if alike else 'as in the file')}" for text, found in names.items()
        ]
    return "; ".join(texts) or ("else as in the file" if candidate.settings(config, kinds) else "as in the file")


def plan_record(search: Search, found: Found) -> dict[str, Any]:
    """A candidate as JSON."""
    figures, config = found.figures, search.config
    return {
        "blocks": figures.blocks,
        "batch_size": found.candidate.shared.batch,
        "codec": found.candidate.shared.codec,
        "clients": {
            kind.name: applied(config, kind.crews[0].name, option)
            for kind, option in zip(search.kinds, found.candidate.options, strict=True)
        },
        "memory": figures.memory,
        "server_memory": figures.server,
        "seconds": figures.seconds,
        "joules": figures.joules,
        "bytes_up": figures.bytes_up,
        "bytes_down": figures.bytes_down,
        "leakage": figures.leakage,
        "changes": figures.changes,
        "settings": {".".join(path): value for path, value in found.candidate.settings(config, search.kinds)},
    }


def _shown(many: int, chosen: int | None) -> list[int]:
    if many <= SHOWN:
        return list(range(many))
    spread = {round(place * (many - 1) / (SHOWN - 2)) for place in range(SHOWN - 1)}
    return sorted(spread | ({chosen} if chosen is not None else set()))


def _cuts(candidate: Candidate) -> str:
    return "-".join(map(str, dict.fromkeys((candidate.cuts[0], candidate.cuts[-1]))))


def _said(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return key if value else f"no {key}"
    if key in ("dtype", "quantization", "learns"):
        return value if value != "none" else "not quantised"
    return f"{key} {value}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return format_number(value) if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
