"""A picture a comparison, for light and for dark pages: bars from zero, whiskers from quartile to quartile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "docs" / "scripts"))

from draw_concepts import IMAGES, SCHEMES, Drawing

from beside.record import Figure, Record

LEFT, WIDTH, STEP = 290, 360, 26
MODELS = {"gpt2": "GPT-2 size", "minilm": "MiniLM"}


def all_of(record: Record) -> dict[Path, str]:
    """SVGs by path."""
    drawings = {name: draw(record) for name, draw in PICTURES.items() if name in record}
    return {
        IMAGES / f"beside-{name}-{scheme}.svg": drawing.svg(colours)
        for name, drawing in drawings.items()
        for scheme, colours in SCHEMES.items()
    }


def model_of(figure: Figure) -> str:
    """As the page names it."""
    return MODELS[figure.work.partition(",")[0]]


def trainer(record: Record) -> Drawing:
    """Speed on one machine, and the memory of a client."""
    figures = record["trainer"].figures
    sizes = memory(record)
    d = Drawing(760, 98 + STEP * (len(figures) + len(sizes)), "atlas beside PEFT and the Trainer: speed and memory")
    names = {"PEFT + Trainer, unsplit": "Trainer as it is", "the same, grouped by length": "Trainer by length"}
    top = ratios(d, 22, "Training speed: the Trainer is 1", _named(figures, names))
    d.text(10, top, "Memory of one participant, GPT-2 size, 8 texts of 128 tokens, MiB", bold=True)
    longest = max(sizes.values())
    for i, (name, size) in enumerate(sizes.items()):
        _bar(d, top + 10 + STEP * i, name, size / longest, f"{size:.0f}", "client" if i == 0 else "server")
    return d


def memory(record: Record) -> dict[str, float]:
    """MiB of who trains, by what the picture calls it."""
    by_name = {figure.against: figure for figure in record["memory"].figures}
    half, whole = (
        by_name[name]
        for name in ("PEFT, peak with frozen weights", "PEFT on the whole model, peak with frozen weights")
    )
    return {
        "atlas, client of 6 of 12 blocks": half.rates["atlas, MiB"],
        "PEFT, the same 6 blocks": half.rates["other, MiB"],
        "PEFT, whole model": whole.rates["other, MiB"],
    }


def split(record: Record) -> Drawing:
    """Speed of eight clients."""
    figures = record["split"].figures
    d = Drawing(760, 72 + STEP * len(figures), "atlas beside a naive split: speed")
    names = {"naive split, dynamic padding": "padded to the longest", "naive split, padded to 128": "padded to 128"}
    ratios(d, 22, "Training speed, eight clients: the naive split is 1", _named(figures, names))
    return d


def flower(record: Record) -> Drawing:
    """Speed of whole rounds."""
    return _of_rounds(record["flower"].figures, "Flower's simulation")


def rounds(record: Record) -> Drawing:
    """Speed of whole rounds."""
    return _of_rounds(record["rounds"].figures, "a Trainer a client (OpenFedLLM's loop)")


def _of_rounds(figures: Sequence[Figure], other: str) -> Drawing:
    d = Drawing(760, 72 + STEP * len(figures), f"atlas beside {other}: speed of whole rounds")
    ratios(d, 22, f"Speed of whole rounds, eight clients: {other} is 1", [("", figure) for figure in figures])
    return d


def _named(figures: Sequence[Figure], names: Mapping[str, str]) -> list[tuple[str, Figure]]:
    return [(names[figure.against], figure) for figure in figures]


def ratios(d: Drawing, top: int, title: str, rows: Sequence[tuple[str, Figure]]) -> int:
    """A title and a bar a figure, with a line where both are as fast; where the next group starts."""
    d.text(10, top, title, bold=True)
    longest = max(figure.q3 for _, figure in rows)
    for i, (name, figure) in enumerate(rows):
        y = top + 10 + STEP * i
        _bar(d, y, f"{model_of(figure)}, {name}".strip(", "), figure.median / longest, "", "client")
        low, high = (round(LEFT + WIDTH * end / longest) for end in (figure.q1, figure.q3))
        d.parts.append(
            f'<path d="M{low} {y + 9.5}H{high}M{low} {y + 5}v9M{high} {y + 5}v9" stroke="{{ink}}" stroke-width="1.5"/>'
        )
        d.text(high + 10, y + 14, f"{figure.median:.2f}", bold=True)
    bottom, one = top + 10 + STEP * len(rows), round(LEFT + WIDTH / longest)
    d.parts.append(f'<path d="M{one} {top + 6}V{bottom}" stroke="{{soft}}" stroke-width="1.5" stroke-dasharray="4 3"/>')
    d.text(one, bottom + 14, "1: as fast", soft=True, anchor="middle")
    d.text(LEFT + WIDTH + 100, bottom + 14, "whisker: half of the turns", soft=True, anchor="end")
    return bottom + 46


def _bar(d: Drawing, y: int, name: str, share: float, value: str, fill: str) -> None:
    length = max(2, round(WIDTH * share))
    d.text(LEFT - 10, y + 14, name, soft=True, anchor="end")
    d.parts.append(f'<rect x="{LEFT}" y="{y}" width="{length}" height="19" fill="{{{fill}}}" stroke="{{line}}"/>')
    if value:
        d.text(LEFT + length + 10, y + 14, value, bold=True)


PICTURES: Mapping[str, Callable[[Record], Drawing]] = {draw.__name__: draw for draw in (trainer, split, flower, rounds)}
