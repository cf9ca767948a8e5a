"""What each way of merging is worth on real text: accuracy of the group and of its clients of least rank, and cost.

    python benchmarks/compare_aggregation.py                     every method and the pooled data, eight seeds
    python benchmarks/compare_aggregation.py --seeds 2 --only delta-svd flexlora training.rounds=5
    python benchmarks/compare_aggregation.py --output DIR        keep the runs; those that are there are not done again
    python benchmarks/compare_aggregation.py --output DIR --write      and write its table in docs/results/
    python benchmarks/compare_aggregation.py --config configs/compare-aggregation.yaml --target 0.6 --seeds 3

Trains benchmarks/word-means.yaml (or --config) with every method, and scores on the test part after the last round:
the group's model, and the model that a client of the least rank is delivered (of methods whose clients have models of
their own, the mean over clients, and over those of the least rank). Methods are compared within a seed, that is on the
same partition, cohorts and initial weights: mean differences from ``--against`` with their interval of 95 % by
Student's t over seeds, in points of accuracy. A target costs the rounds, and the MB up and down, until the first
evaluated round that reaches it; seeds that do not reach it do not count. Seeds are the outer loop, so that a run that
is stopped has as many of every method. Ends with exit code 1 if two methods gave the same losses: then one of them was
not what it says.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from paired import Interval, Scored, first_at, paired
from pydantic import ValidationError
from word_means import word_means

from atlas_cli import discovery
from atlas_cli.config.load import load_config
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment.session import start
from atlas_cli.inference.loaded_model import open_model
from atlas_cli.inference.scored_parts import part_of_run
from atlas_cli.inference.scoring import score
from atlas_cli.planning.method import load_method
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.runs.directory import RunDirectory, open_run
from atlas_cli.runs.outcomes import read_outcomes, write_outcomes

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "benchmarks" / "word-means.yaml"
PAGE = ROOT / "docs" / "results" / "aggregation.md"
MARKS = ("<!-- written by benchmarks/compare_aggregation.py -->\n", "<!-- end -->\n")
BASELINES = ("centralized", "local-only")
COLUMNS = (
    *("method", "seeds", "group", "against {against}", "least rank", "against {against}"),
    *("merge error", "up, MB", "down, MB", "rounds to {target}", "MB to {target}"),
)


class Outcome(NamedTuple):
    """The end of one run.

    Attributes:
        accuracy: of the group's model, ``least``: of a client of the least rank.
        error: of the last merge; None where there is none.
        up, down: bytes of all rounds, without the set-up.
        rounds: those that were evaluated.
        trace: the training loss of every round.
    """

    accuracy: float
    least: float
    error: float | None
    up: int
    down: int
    rounds: tuple[Scored, ...]
    trace: tuple[float, ...]


Outcomes = Mapping[str, Sequence[Outcome]]


def run(file: Path, name: str, seed: int, folder: Path, overrides: Sequence[str]) -> Outcome:
    """Train with one method or baseline, or read the run of the same config that is in ``folder``."""
    choice = f"mode={name}" if name in BASELINES else f"aggregation.method={name}"
    loaded = load_config(file, [choice, f"seed={seed}", f"output.dir={folder}", *overrides])
    done = finished(folder, loaded.config) or start(loaded.config, PlainProgress(Terminal(quiet=True)))
    lines = [line for line in done.read_lines("metrics.jsonl") if line["round"]]
    spent = list(itertools.accumulate(line["bytes_up"] + line["bytes_down"] for line in lines))
    accuracy = lines[-1]["test"]["accuracy"]
    return Outcome(
        accuracy,
        accuracy if name == "centralized" else of_least_rank(done, loaded.config),
        lines[-1]["aggregation_error"],
        sum(line["bytes_up"] for line in lines),
        sum(line["bytes_down"] for line in lines),
        tuple(
            Scored(line["round"], line["test"]["accuracy"], so_far)
            for line, so_far in zip(lines, spent, strict=True)
            if line["test"]
        ),
        tuple(line["train_loss"] for line in lines),
    )


def of_least_rank(done: RunDirectory, config: ExperimentConfig) -> float:
    """The accuracy of the models of the clients of the least rank, on the test part of their group."""
    ranks = {client.name: client.rank for client in config.expanded_clients() if isinstance(client.rank, int)}
    least = [name for name, rank in ranks.items() if rank == min(ranks.values())]
    if config.mode == "split-federated" and load_method(config.aggregation.method).GROUP_ADAPTER:
        least = least[:1]  # all are delivered the same
    known = {found.client: found.figures["accuracy"] for found in read_outcomes(done)}
    for name in least:
        if name not in known:
            model = open_model(done.path, client=name)
            outcomes = score(model, part_of_run(model, "test")).outcomes
            write_outcomes(done, f"{name}-test-round-{model.round}", outcomes)
            known[name] = outcomes.figures["accuracy"]
    return statistics.fmean(known[name] or 0.0 for name in least)


def finished(folder: Path, config: ExperimentConfig) -> RunDirectory | None:
    """A run that has ended with this config, wherever it lies; keys that came after it are as by default."""
    wanted = config.model_dump(exclude={"output"})
    for path in sorted(folder.glob("*/manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["status"] != "finished" or manifest["config"]["seed"] != config.seed:
            continue
        with suppress(ValidationError):  # of a version with other keys
            was = ExperimentConfig.model_validate_json(json.dumps(manifest["config"]))
            if was.model_dump(exclude={"output"}) == wanted:
                return open_run(path.parent)
    return None


def table(outcomes: Outcomes, against: str, target: float) -> str:
    """In Markdown, a row a method, the best first."""
    heads = [column.format(against=f"`{against}`", target=f"{target:g}") for column in COLUMNS]
    lines = [heads, ["---"] * len(heads)]
    for name, runs in sorted(outcomes.items(), key=lambda each: -statistics.fmean(r.accuracy for r in each[1])):
        lines.append([f"`{name}`", *cells(runs, outcomes[against] if name != against else (), target)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(runs: Sequence[Outcome], against: Sequence[Outcome], target: float) -> list[str]:
    """The figures of one method; differences from the runs ``against`` of the seeds that both have."""
    both = list(zip(runs, against, strict=False))
    errors = [r.error for r in runs if r.error is not None]
    reached = [at for r in runs if (at := first_at(target, r.rounds)) is not None]
    of = f" ({len(reached)} of {len(runs)})" if 0 < len(reached) < len(runs) else ""
    return [
        str(len(runs)),
        spread([r.accuracy for r in runs]),
        points(paired([r.accuracy for r, _ in both], [o.accuracy for _, o in both])) if both else "",
        spread([r.least for r in runs]),
        points(paired([r.least for r, _ in both], [o.least for _, o in both])) if both else "",
        f"{statistics.fmean(errors):.3f}" if errors else "",
        f"{statistics.fmean(r.up for r in runs) / 1e6:,.0f}",
        f"{statistics.fmean(r.down for r in runs) / 1e6:,.0f}",
        f"{statistics.fmean(at.round for at in reached):.1f}{of}" if reached else "not reached",
        f"{statistics.fmean(at.spent for at in reached) / 1e6:,.0f}" if reached else "",
    ]


def points(found: Interval) -> str:
    """A difference in points with the half width of its interval; bold where its sign is seen."""
    text = f"{100 * found.mean:+.1f}" + (f" ± {100 * found.half:.1f}" if found.half is not None else "")
    return f"**{text}**" if found.excludes_zero() else text


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def written(page: str, table: str) -> str:
    """The page with the table between its marks."""
    before, rest = page.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{rest.split(MARKS[1], 1)[1]}"


def identical(outcomes: Outcomes) -> list[tuple[str, str]]:
    """Methods that trained identically in every seed."""
    traces = {name: tuple(o.trace for o in runs) for name, runs in outcomes.items()}
    return [(a, b) for a, b in itertools.combinations(traces, 2) if traces[a] == traces[b]]


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="changes to the config, as key=value")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--only", nargs="+", default=[*discovery.names("aggregation.methods"), "centralized"])
    parser.add_argument("--against", default="delta-svd", help="the method that others are held against")
    parser.add_argument("--target", type=float, default=0.4, help="an accuracy, whose cost is counted")
    parser.add_argument("--output", type=Path, help="keep the runs here, and use those that are here")
    parser.add_argument("--write", action="store_true", help=f"write the table in {PAGE.relative_to(ROOT)}")
    given = parser.parse_intermixed_args()
    outcomes: dict[str, list[Outcome]] = {name: [] for name in dict.fromkeys([given.against, *given.only])}
    with tempfile.TemporaryDirectory() if given.output is None else nullcontext(given.output) as folder:
        made = word_means(Path(folder) / "word-means") if given.config == CONFIG else []
        for seed, name in itertools.product(range(given.seeds), outcomes):
            outcomes[name].append(run(given.config, name, seed, Path(folder), [*made, *given.overrides]))
            last = outcomes[name][-1]
            print(f"seed {seed}: {name} {last.accuracy:.3f}, least rank {last.least:.3f}", flush=True)
    found = table(outcomes, given.against, given.target)
    print(found)
    if given.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8", newline="\n")
    alike = identical(outcomes)
    for a, b in alike:
        print(f"{a} and {b} trained identically", file=sys.stderr)
    return 1 if alike else 0


if __name__ == "__main__":
    sys.exit(main())
