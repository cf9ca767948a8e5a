"""What each privacy mechanism costs and what it hides, on real text: accuracy, epsilon and what attacks recover.

    python benchmarks/privacy.py                              every mechanism at each strength, three seeds
    python benchmarks/privacy.py --seeds 1 --only activations nopeek
    python benchmarks/privacy.py --output DIR                 keep the runs; those that are there are not done again
    python benchmarks/privacy.py --quick                      a minute a mechanism: shows that all works, no figures

Runs configs/privacy-*.yaml, which differ in ``privacy`` alone, and attacks the recorded messages of the last round as
``atlas audit`` does. Accuracy is that of the held-out test part after the last round; recovery is the share of tokens
that the best of three attacks finds; labels are those found in returned gradients; membership is an AUC.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from compare_aggregation import finished, spread
from rich.table import Table

from atlas_cli import discovery
from atlas_cli.audit.attack_all import FILE, audit
from atlas_cli.audit.evidence import Evidence
from atlas_cli.config.load import load_config, locating
from atlas_cli.errors import AtlasError
from atlas_cli.experiment.session import start
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.runs.directory import RunDirectory

CONFIGS = Path(__file__).parents[1] / "configs"
RECOVERY = ("nearest-embedding", "ridge-inverter", "mlp-inverter")
ATTACKS = (*RECOVERY, "label-from-gradients", "membership")
TEXTS = 128  # that an attack looks at
QUICK = ["training.rounds=1", "training.local_steps=2"]
QUICK += ["task_groups.questions.data.limit=480", "task_groups.questions.data.test_limit=100"]


class Case(NamedTuple):
    """A mechanism (its key under ``privacy``, or ``wire``) at one strength: a shipped config and changes to it."""

    mechanism: str | None
    strength: str
    config: str
    overrides: tuple[str, ...]


CASES = (
    Case(None, "-", "privacy-updates", ("privacy.updates=null",)),
    *(Case("updates", f"epsilon {e}", "privacy-updates", (f"privacy.updates.epsilon={e}",)) for e in (1000, 100, 8)),
    *(Case("examples", f"epsilon {e}", "privacy-examples", (f"privacy.examples.epsilon={e}",)) for e in (64, 8, 1)),
    *(Case("labels", f"epsilon {e}", "privacy-labels", (f"privacy.labels.epsilon={e}",)) for e in (4, 2, 1)),
    *(
        Case("activations", f"noise {z}", "privacy-activations", (f"privacy.activations.noise_multiplier={z}",))
        for z in (0.05, 0.2, 0.5)
    ),
    *(
        Case(
            "nopeek",
            f"weight {w}",
            "privacy-activations",
            ("privacy.activations=null", f"privacy.nopeek={{weight: {w}}}"),
        )
        for w in (1, 10, 100)
    ),
    *(
        Case(
            "wire",
            f"{kind}, no defence",
            "privacy-activations",
            ("privacy.activations=null", f"wire.activations.codec={kind}", f"wire.gradients.codec={kind}"),
        )
        for kind in ("bfloat16", "int8", "int4", "nf4")
    ),
)


class Row(NamedTuple):
    """Figures of one run.

    Attributes:
        epsilon: of the mechanism's channel at ``privacy.delta``; None where nothing bounds it.
        recovery: tokens, share, by the best attack; ``labels``: share; ``membership``: AUC. None: not measured.
        texts: attacked for tokens and labels.
    """

    accuracy: float
    epsilon: float | None
    recovery: float | None
    labels: float | None
    membership: float | None
    texts: int


def row(run: RunDirectory, mechanism: str | None) -> Row:
    """The figures of a finished run of one task group, attacked unless its audit.json has these attacks."""
    audited = run.read_json(FILE) if (run.path / FILE).exists() else {}
    figures = {figure["attack"]: figure for figure in audited.get("attacks", [])}
    if not {*figures, *audited.get("not_measured", {})} >= {*ATTACKS}:
        audited = audit(Evidence.of_run(run, TEXTS), ATTACKS)
        run.write_json(FILE, audited)
        figures = {figure["attack"]: figure for figure in audited["attacks"]}
    last = run.read_lines("metrics.jsonl")[-1]
    bounds = mechanism is not None and mechanism != "wire"
    channel = discovery.load("privacy.mechanisms", mechanism).Mechanism.channel if bounds else None
    epsilon = last["epsilon"][channel] if channel else "infinite"
    values = {name: figure["value"] for name, figure in figures.items()}
    return Row(
        last["test"]["accuracy"],
        None if epsilon == "infinite" else epsilon,
        max((values[name] for name in RECOVERY if name in values), default=None),
        values.get("label-from-gradients"),
        values.get("membership"),
        max((figures[name]["examples"] for name in RECOVERY if name in figures), default=0),
    )


def run_case(case: Case, seed: int, folder: Path, overrides: Sequence[str]) -> Row:
    """Train and attack, or read the run of the same config that is in ``folder``."""
    file, changes = CONFIGS / f"{case.config}.yaml", [*case.overrides, f"seed={seed}", f"output.dir={folder}"]
    rounds = load_config(file, overrides).config.training.rounds
    loaded = load_config(file, [*changes, f"audit.record.rounds=[{rounds}]", *overrides])
    with locating(loaded):
        done = finished(folder, loaded.config) or start(loaded.config, PlainProgress(Terminal(quiet=True)))
    return row(done, case.mechanism)


def table(outcomes: dict[Case, list[Row]]) -> Table:
    """A row a case: means, and standard deviations over seeds."""
    shown = Table("mechanism", "strength", "accuracy", "epsilon", "tokens", "labels", "membership")
    for case, rows in outcomes.items():
        columns = [
            [value for value in column if value is not None] for column in zip(*(r[2:5] for r in rows), strict=True)
        ]
        epsilons = [r.epsilon for r in rows if r.epsilon is not None]
        shown.add_row(
            case.mechanism or "none",
            case.strength,
            spread([r.accuracy for r in rows]),
            f"{statistics.mean(epsilons):,.4g}" if epsilons else "infinite",
            *(spread(column) if column else "-" for column in columns),
        )
    return shown


def main() -> int:
    """Run the comparison; an error that atlas can name is one line on standard error, and its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="changes to the configs, as key=value")
    names = list(dict.fromkeys(case.mechanism or "none" for case in CASES))
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="MECHANISM", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="one seed, one short round")
    parser.add_argument("--output", type=Path, help="keep the runs here, and use those that are here")
    parser.add_argument("--json", action="store_true", help="print JSON, a line a run, instead of the table")
    given = parser.parse_args()
    if given.seeds < 1:
        parser.error(f"--seeds: must be at least 1, got {given.seeds}")
    try:
        compare(given)
    except AtlasError as error:
        for line in str(error).splitlines():  # one a problem
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    return 0


def compare(given: argparse.Namespace) -> None:
    """Print a line a run, and the table unless JSON was asked for."""
    overrides = [*(QUICK if given.quick else []), *given.overrides]
    outcomes: dict[Case, list[Row]] = {case: [] for case in CASES if (case.mechanism or "none") in given.only}
    with tempfile.TemporaryDirectory() if given.output is None else nullcontext(given.output) as folder:
        for seed, case in itertools.product(range(1 if given.quick else given.seeds), outcomes):
            found = run_case(case, seed, Path(folder), overrides)
            outcomes[case].append(found)
            named = {"seed": seed, "mechanism": case.mechanism, "strength": case.strength, **found._asdict()}
            line = json.dumps(named) if given.json else " ".join(f"{k} {v}" for k, v in named.items())
            print(line, flush=True)
    if not given.json:
        Terminal(width=100).print(table(outcomes))


if __name__ == "__main__":
    sys.exit(main())
