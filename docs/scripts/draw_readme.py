"""Draw the pictures of README from recorded runs, each for light and for dark pages.

python docs/scripts/draw_readme.py --record RUN RUN ...   takes figures of finished runs of configs/quickstart.yaml, as
                                                          it is and with mode=federated, both with the same seeds;
                                                          terminal lines of the first that is named quickstart
python docs/scripts/draw_readme.py                        writes docs/images/readme-NAME-light.svg and -dark.svg
python docs/scripts/draw_readme.py --check                exit code 1 where a picture is not what this file draws
"""

from __future__ import annotations

import json
import statistics
import sys
from html import escape
from pathlib import Path
from typing import Any

from draw_concepts import IMAGES, SCHEMES, Drawing

RECORDED = Path(__file__).with_name("quickstart.json")
MIB, MB = 2**20, 10**6
SHOWN = 98  # characters of a terminal line


def record(runs: list[Path]) -> dict[str, Any]:
    """What the pictures show of runs of several seeds, and what they were made with."""
    manifests = {run: _json(run / "manifest.json") for run in runs}
    by_mode: dict[str, dict[int, Path]] = {"split-federated": {}, "federated": {}}
    for run, manifest in manifests.items():
        by_mode[manifest["config"]["mode"]][manifest["seed"]] = run
    split, federated = by_mode.values()
    if split.keys() != federated.keys() or len(split) + len(federated) != len(runs):
        raise SystemExit("give one run of each mode for each seed")
    seeds = sorted(split)
    first = manifests[split[seeds[0]]]
    references = [_json(split[seed] / "memory.json")["references"] for seed in seeds]
    logs = [run / "log.txt" for run in split.values() if manifests[run]["config"]["name"] == "quickstart"]
    lines = [line.partition(" ")[2] for line in logs[0].read_text(encoding="utf-8").splitlines()] if logs else None
    return {
        "versions": {name: version for name, version in first["versions"].items() if name != "atlas"},  # see commits
        "commits": sorted({manifest["git"]["commit"] for manifest in manifests.values()}),
        "seeds": seeds,
        "rounds": first["config"]["training"]["rounds"],
        "full_fine_tuning_bytes": [each["full_fine_tuning"]["total"] for each in references],
        "split": [_figures(split[seed]) for seed in seeds],
        "federated": [_figures(federated[seed]) for seed in seeds],
        "terminal": lines or _json(RECORDED)["terminal"],
    }


def _figures(run: Path) -> dict[str, Any]:
    memory = [client["total"] for client in _json(run / "memory.json")["clients"].values()]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line for line in metrics if line["round"] == max(other["round"] for other in metrics)]
    trained = [line for line in metrics if line["round"] > 0]
    return {
        "clients": len(memory),
        "largest_client_bytes": max(memory),
        "smallest_client_bytes": min(memory),
        "bytes_up": sum(line["bytes_up"] for line in trained),
        "bytes_down": sum(line["bytes_down"] for line in trained),
        "bytes_down_before": sum(line["bytes_down"] for line in metrics if line["round"] == 0),
        "accuracy": {line["task_group"]: line["test"]["accuracy"] for line in last},
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def idea() -> Drawing:
    """Client halves of unequal size, the cut, the server half, and the merge after each round."""
    d = Drawing(820, 300, "Clients keep the bottom half and adapters of unequal rank; the server keeps the top half")
    for i, (name, rank) in enumerate((("phone", 4), ("laptop", 16), ("workstation", 32))):
        top = 14 + 88 * i
        d.box(10, top, 230, 70, f"{name}: rank {rank}", "its texts, frozen blocks below the cut, its own adapters")
        d.arrow(242, top + 26, 408, top + 26, "activations up" if i == 0 else "")
        d.arrow(408, top + 44, 242, top + 44, "gradients down" if i == 0 else "", above=False)
    d.parts.append('<path d="M325 84V272" stroke="{soft}" stroke-width="1.5" stroke-dasharray="5 5"/>')
    d.text(325, 290, "the cut, at any layer", soft=True, anchor="middle")
    d.box(
        *(410, 14, 190, 246, "server half"),
        "Frozen blocks above the cut; for each task a head and adapters. Before training it is proved on real "
        "examples that loss and every gradient are those of the unsplit model.",
        "server",
    )
    d.arrow(602, 120, 618, 120)
    d.arrow(618, 150, 602, 150)
    d.box(
        *(620, 14, 190, 246, "merge, each round"),
        "Adapters of a task meet as one update, whatever their ranks, and go back at each client's own. How far that "
        "is from the exact sum stands in every record.",
        "sent",
    )
    return d


def result() -> Drawing:
    """Memory, bytes and accuracy of the quickstart, beside federated LoRA of the whole model on the same data."""
    found = _json(RECORDED)
    d = Drawing(820, 350, "The quickstart beside federated LoRA on the whole model: memory, bytes and accuracy")
    names = {"atlas, split": found["split"], "federated LoRA, whole model": found["federated"]}
    top = _bars(
        d,
        24,
        "Memory of the largest client, MiB (measured; full fine-tuning: traced)",
        "{:.0f}",
        {
            **{name: [each["largest_client_bytes"] / MIB for each in runs] for name, runs in names.items()},
            "full fine-tuning": [size / MIB for size in found["full_fine_tuning_bytes"]],
        },
    )
    up = {name: [each["bytes_up"] / each["clients"] / MB for each in runs] for name, runs in names.items()}
    top = _bars(d, top, f"Sent up by a client in {found['rounds']} rounds, MB (mean of clients)", "{:.1f}", up)
    accuracy = {name: [statistics.fmean(each["accuracy"].values()) for each in runs] for name, runs in names.items()}
    top = _bars(d, top, "Test accuracy, mean of four tasks of 500 texts each", "{:.3f}", accuracy)
    d.text(10, top, f"Means of {len(found['seeds'])} seeds, in brackets the least and the most of them.", soft=True)
    return d


def _bars(d: Drawing, top: int, title: str, form: str, values: dict[str, list[float]]) -> int:
    """A title and a bar for the mean of each list, from zero, on one scale; where the next group starts."""
    d.text(10, top, title, bold=True)
    longest = max(map(statistics.fmean, values.values()))
    for i, (name, each) in enumerate(values.items()):
        mean, least, most = (form.format(value) for value in (statistics.fmean(each), min(each), max(each)))
        y, length = top + 10 + 24 * i, max(2, round(430 * statistics.fmean(each) / longest))
        fill = "client" if i == 0 else "server"
        d.text(200, y + 14, name, soft=True, anchor="end")
        d.parts.append(f'<rect x="210" y="{y}" width="{length}" height="19" fill="{{{fill}}}" stroke="{{line}}"/>')
        d.text(218 + length, y + 14, mean, bold=True)
        if least != most:
            d.text(226 + length + 8 * len(mean), y + 14, f"({least} to {most})", soft=True)
    return top + 42 + 24 * len(values)


def terminal() -> Drawing:
    """What the quickstart shows, shortened where it says so."""
    lines = [_shortened(line) for line in _chosen(_json(RECORDED)["terminal"])]
    d = Drawing(820, 44 + 17 * len(lines), "The terminal of a run of the quickstart")
    d.parts.append(f'<rect width="820" height="{d.height}" rx="8" fill="#12181f"/>')
    for x, colour in ((20, "#e06c6c"), (40, "#d9b34a"), (60, "#62b56f")):
        d.parts.append(f'<circle cx="{x}" cy="18" r="6" fill="{colour}"/>')
    for i, line in enumerate(lines):
        ink = "#8fd3a3" if line.startswith("$") else "#dce3ea"
        d.parts.append(
            f'<text x="18" y="{48 + 17 * i}" font-size="13" fill="{ink}" xml:space="preserve" '
            f'font-family="ui-monospace, Consolas, Menlo, monospace">{escape(line)}</text>'
        )
    return d


def _chosen(lines: list[str]) -> list[str]:
    """The command, the model, the proof, rounds and the table; notes are left out, and said so by an ellipsis."""
    first = next(i for i, line in enumerate(lines) if line.startswith("quickstart:"))
    table = next(i for i, line in enumerate(lines) if line.startswith("Result"))
    notes = next(i for i, line in enumerate(lines) if line.startswith("metric:"))
    proofs = [line for line in lines if line.startswith("split = unsplit")]
    rounds = [line for line in lines if line.startswith("round ")]
    last = [line for line in lines if line.startswith("report ")]
    return [
        "$ atlas train configs/quickstart.yaml",
        lines[first],
        "...",
        *proofs[:2],
        "...",
        *rounds[:2],
        "...",
        rounds[-1],
        "",
        *lines[table + 1 : notes],
        *last,
    ]


def _shortened(line: str) -> str:
    return line if len(line) <= SHOWN else line[: SHOWN - 4].rpartition(" ")[0].rstrip() + " ..."


PICTURES = {"idea": idea, "result": result, "terminal": terminal}


def main(arguments: list[str]) -> int:
    """Record, write or check, as said at the top."""
    if arguments[:1] == ["--record"]:
        found = record([Path(each) for each in arguments[1:]])
        RECORDED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8", newline="\n")
    stale = []
    for name, draw in PICTURES.items():
        for scheme, colours in SCHEMES.items():
            path, text = IMAGES / f"readme-{name}-{scheme}.svg", draw().svg(colours)
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8", newline="\n")
            elif not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(path.name)
    if stale:
        print(f"not what draw_readme.py draws: {', '.join(stale)}", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
