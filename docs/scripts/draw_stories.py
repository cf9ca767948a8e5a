"""Draw the pictures of docs/stories, each for light and for dark pages, from stories.json and quickstart.json.

python docs/scripts/draw_stories.py --record RUN RUN ...   takes plans of two shipped configs, and the figures of
                                                           finished runs of three-clients-two-groups, a seed each
python docs/scripts/draw_stories.py                        writes docs/images/story-NAME-light.svg and -dark.svg
python docs/scripts/draw_stories.py --check                exit code 1 where a picture is not what this file draws
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from draw_concepts import IMAGES, SCHEMES, Drawing

HERE = Path(__file__).parent
RECORDED = HERE / "stories.json"
MIB, MB = 2**20, 10**6
T_975 = 4.302652729911275  # Student's t of three seeds, two degrees of freedom
ROOM = 470  # pixels of the longest bar, and of the scale of intervals


class Interval(NamedTuple):
    """A mean over three seeds with its 95 % interval by Student's t."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Of three seeds; more would need another t."""
    assert len(values) == 3
    return around(statistics.fmean(values), statistics.stdev(values))


def around(mean: float, deviation: float) -> Interval:
    """The same of a published mean and standard deviation."""
    half = T_975 * deviation / math.sqrt(3)
    return Interval(mean, mean - half, mean + half)


def record(runs: Sequence[Path]) -> dict[str, Any]:
    """Plans, and by seed what runs measured; what the page on ranks publishes is kept as it stands."""
    plan = _atlas("memory-report", "three-clients-two-groups", "--json")
    ranks = _atlas("ranks", "compare-ranks", "--json")
    return {
        "three": {
            name: {
                "adapters": client["adapters"],
                "peak": client["peak"],
                "bytes_up": plan["round"][name]["bytes_up"],
            }
            for name, client in plan["clients"].items()
        },
        "runs": {str(run["seed"]): run["groups"] for run in sorted(map(_run, runs), key=lambda run: run["seed"])},
        "ranks": {
            client["client"]: {"ranks": client["ranks"], "peak": client["memory"]["peak"]}
            for client in ranks["clients"]
        },
        "ranks_published": json.loads(RECORDED.read_text(encoding="utf-8"))["ranks_published"],
    }


def _atlas(*arguments: str) -> Any:
    from atlas_cli.cli import main as atlas

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if atlas(list(arguments)) != 0:
            raise SystemExit(1)
    return json.loads(printed.getvalue())


def _run(run: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    groups: dict[str, dict[str, Any]] = {}
    for line in lines:
        group = groups.setdefault(line["task_group"], {"accuracy": [], "merge_error": []})
        if line["test"]:
            group["accuracy"].append(line["test"]["accuracy"])
        if line["aggregation_error"] is not None:
            group["merge_error"].append(line["aggregation_error"])
    return {"seed": json.loads((run / "manifest.json").read_text(encoding="utf-8"))["seed"], "groups": groups}


def costs(found: dict[str, Any]) -> Drawing:
    """What the ranks of three clients cost, by the plan."""
    d = Drawing(760, 375, "Adapter, peak memory and bytes of a round of three clients: the adapter grows 16 times")
    plan = found["three"]
    top = 24
    for title, key, unit, form in (
        ("Adapter, MiB: 16 times as large", "adapters", MIB, "{:.2f}"),
        ("Peak memory, MiB (predicted): 5 % more", "peak", MIB, "{:.0f}"),
        ("Sent up in a round of six steps, MB: 1.9 times as much", "bytes_up", MB, "{:.2f}"),
    ):
        values = {name: client[key] / unit for name, client in plan.items()}
        top = bars(d, top, title, form, values, "client-2")
    return d


def bars(d: Drawing, top: int, title: str, form: str, values: Mapping[str, float], apart: str) -> int:
    """A title and a bar for each value, from zero; where the next group starts."""
    d.text(10, top, title, bold=True)
    for i, (name, value) in enumerate(values.items()):
        y, length = top + 10 + 24 * i, max(2, round(ROOM * value / max(values.values())))
        fill = "server" if name == apart else "client"
        d.text(110, y + 14, name, soft=True, anchor="end")
        d.parts.append(f'<rect x="120" y="{y}" width="{length}" height="19" fill="{{{fill}}}" stroke="{{line}}"/>')
        d.text(128 + length, y + 14, form.format(value), bold=True)
    return top + 46 + 24 * len(values)


def points(
    d: Drawing, top: int, title: str, rows: Mapping[str, Interval], ends: tuple[float, float], marks: Sequence[float]
) -> int:
    """A title and a point with its interval for each row, over a scale with ``marks``; where the next group starts."""
    d.text(10, top, title, bold=True)
    left, bottom = 190, top + 18 + 26 * len(rows)

    def at(value: float) -> float:
        return round(left + ROOM * (value - ends[0]) / (ends[1] - ends[0]), 1)

    for mark in marks:
        colour = "{soft}" if mark == 0 else "{line}"
        width = 1.5 if mark == 0 else 0.5
        d.parts.append(f'<path d="M{at(mark)} {top + 10}V{bottom}" stroke="{colour}" stroke-width="{width}"/>')
        d.text(int(at(mark)), bottom + 15, f"{mark:g}", soft=True, anchor="middle")
    for i, (name, value) in enumerate(rows.items()):
        y = top + 24 + 26 * i
        d.text(left - 12, y + 4, name, soft=True, anchor="end")
        d.parts.append(f'<path d="M{at(value.low)} {y}H{at(value.high)}" stroke="{{ink}}" stroke-width="2"/>')
        d.parts.append(f'<circle cx="{at(value.mean)}" cy="{y}" r="5" fill="{{server}}" stroke="{{ink}}"/>')
        d.text(left + ROOM + 20, y + 4, f"{value.mean:+.3f}" if ends[0] < 0 else f"{value.mean:.3f}", bold=True)
    return bottom + 46


def learned(found: dict[str, Any]) -> Drawing:
    """Merge error and gain in accuracy of the runs of three seeds."""
    d = Drawing(760, 300, "Merge error of the last round, and what six rounds gained in accuracy, with 95 % intervals")
    runs = list(found["runs"].values())
    gains = {
        name: interval([run[name]["accuracy"][-1] - run[name]["accuracy"][0] for run in runs])
        for name in ("questions", "news")
    }
    title = "Test accuracy after six rounds, less that before training"
    top = points(d, 24, title, gains, (-0.1, 1.0), (0, 0.25, 0.5, 0.75, 1))
    rounds = {
        f"questions, round {each}": interval([run["questions"]["merge_error"][each - 1] for run in runs])
        for each in (1, 3, 6)
    }
    top = points(d, top, "Merge error, as a share of the exact sum", rounds, (0, 0.3), (0, 0.1, 0.2, 0.3))
    d.text(10, top, "Three seeds; lines are 95 % intervals by Student's t.", soft=True)
    return d


def groups(_found: dict[str, Any]) -> Drawing:
    """Four task groups: accuracy by the split, and how far it is from federated LoRA."""
    d = Drawing(760, 400, "Accuracy of four task groups through the split, and their difference from federated LoRA")
    quick = json.loads((HERE / "quickstart.json").read_text(encoding="utf-8"))
    names = list(quick["split"][0]["accuracy"])
    split = {name: interval([run["accuracy"][name] for run in quick["split"]]) for name in names}
    top = points(d, 24, "Test accuracy through the split", split, (0.7, 1.0), (0.7, 0.8, 0.9, 1))
    pairs = list(zip(quick["split"], quick["federated"], strict=True))
    apart = {name: interval([a["accuracy"][name] - b["accuracy"][name] for a, b in pairs]) for name in names}
    means = [statistics.fmean(a["accuracy"].values()) - statistics.fmean(b["accuracy"].values()) for a, b in pairs]
    apart["mean of the four"] = interval(means)
    title = "The split less federated LoRA on the whole model, of the same seed"
    top = points(d, top, title, apart, (-0.06, 0.06), (-0.05, 0, 0.05))
    d.text(10, top, "Three seeds; lines are 95 % intervals by Student's t.", soft=True)
    return d


def ranks(found: dict[str, Any]) -> Drawing:
    """Where a client of each device has its rank, and what that was worth."""
    d = Drawing(760, 480, "Ranks by layer of a tight and a roomy client, and differences in accuracy from equal ranks")
    top = 24
    for name, budget in (("tight-1", "140.25 MiB"), ("roomy-1", "141.25 MiB")):
        given = found["ranks"][name]["ranks"]
        d.text(10, top, f"{name}, {budget}: rank by layer", bold=True)
        for i, (layer, rank) in enumerate(given.items()):
            y, length = top + 8 + 20 * i, round(ROOM * rank / 30)
            d.text(110, y + 13, f"layer {layer}", soft=True, anchor="end")
            d.parts.append(f'<rect x="120" y="{y}" width="{length}" height="16" fill="{{client}}" stroke="{{line}}"/>')
            d.text(128 + length, y + 13, str(rank), bold=True)
        top += 40 + 20 * len(given)
    apart = {
        f"{name} ranks": around(each["mean"], each["deviation"]) for name, each in found["ranks_published"].items()
    }
    title = "Test accuracy less that of equal ranks of the same budget and seed"
    top = points(d, top, title, apart, (-0.05, 0.05), (-0.05, -0.025, 0, 0.025, 0.05))
    d.text(10, top, "Three seeds; lines are 95 % intervals by Student's t.", soft=True)
    return d


PICTURES = {"costs": costs, "learned": learned, "groups": groups, "ranks": ranks}


def main(arguments: list[str]) -> int:
    """Record, write or check, as said at the top."""
    if arguments[:1] == ["--record"]:
        found = record([Path(each) for each in arguments[1:]])
        RECORDED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8", newline="\n")
    found = json.loads(RECORDED.read_text(encoding="utf-8"))
    stale = []
    for name, draw in PICTURES.items():
        for scheme, colours in SCHEMES.items():
            path, text = IMAGES / f"story-{name}-{scheme}.svg", draw(found).svg(colours)
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8", newline="\n")
            elif not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(path.name)
    if stale:
        print(f"not what draw_stories.py draws: {', '.join(stale)}", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
