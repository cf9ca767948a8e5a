"""atlas beside PEFT + Trainer, a naive split, Flower and OpenFedLLM's loop, for docs/results/beside-others.md.

    python benchmarks/beside/measure.py                                  all that needs no other environment, and print
    python benchmarks/beside/measure.py --quick                          three turns of each
    python benchmarks/beside/measure.py --only trainer memory            some of them
    python benchmarks/beside/measure.py --flower flower-env              with Flower, in an environment made there
    python benchmarks/beside/measure.py --write                          and write record, page and pictures
    python benchmarks/beside/measure.py --only page --write              page and pictures alone, from the record

Needs ``pip install -e '.[dev]'`` (peft and accelerate).

Contestants are those of benchmarks/speed.py, which says what they share: parameters, first values, texts and optimizer.
They take turns step by step (Flower and OpenFedLLM's loop: round by round), on one thread each; a figure is the median
of the ratios of neighbours in real tokens a second.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is run as a file
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # read when torch is loaded

import torch
from contestants import comparisons
from contestants.comparisons import Options, Result
from contestants.flower import environment
from contestants.turns import spread
from published.records import conditions

from atlas_cli.errors import AtlasError
from beside import checks, page, pictures
from beside.record import Figure, Part, read, write

COMPARISONS = ("trainer", "memory", "split", "flower", "rounds")
CHECKS: Mapping[str, Callable[[Path | None], Any]] = {
    "installs": lambda _: checks.installs(),
    "flower facts": checks.flower,
    "peft facts": lambda _: checks.peft(),
}


def main() -> int:
    """Measure and check, print, and write what was asked for."""
    args = arguments()
    torch.set_num_threads(1)
    try:
        python = args.flower and environment(args.flower)
    except AtlasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    options = Options(args.quick, (), python)
    code = 0
    for name in args.only or (*COMPARISONS, *CHECKS):
        if name == "page":
            continue
        try:
            part = measured(name, options) if name in COMPARISONS else checked(name, python)
        except AtlasError as error:
            print(f"{name}: {error}", file=sys.stderr)
            code = error.exit_code
            continue
        if part is not None and args.write:  # after each: what is stopped keeps what it has
            write({**read(), name: part})
    if args.write:
        write_page()
    return code


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three turns of each")
    names = (*COMPARISONS, *CHECKS, "page")
    parser.add_argument("--only", nargs="+", default=[], choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--flower", type=Path, metavar="FOLDER", help="an environment with Flower, made if need be")
    parser.add_argument("--write", action="store_true", help="write the record, the page and its pictures")
    if lacking := [name for name in ("peft", "accelerate") if importlib.util.find_spec(name) is None]:
        parser.error(f"needs {lacking[0]}; pip install -e '.[dev]'")
    return parser.parse_args()


def comparison(name: str, options: Options) -> Iterator[Result]:
    """Its results. Rounds have two local steps, so that many turns fit in minutes."""
    few = options.quick
    of: dict[str, list[Callable[[], Iterator[Result]]]] = {
        "trainer": [
            partial(comparisons.against_trainer, "gpt2", options, 3 if few else 8),
            partial(comparisons.against_trainer, "minilm", options, 3 if few else 16),
        ],
        "memory": [partial(comparisons.memory, options)],
        "split": [
            partial(comparisons.against_split, "gpt2", 1, options, 3 if few else 6),
            partial(comparisons.against_split, "minilm", 4, options, 3 if few else 8),
        ],
        "flower": [
            partial(comparisons.against_flower, "gpt2", 1, options, True, 3 if few else 6),
            partial(comparisons.against_flower, "minilm", 4, options, True, 3 if few else 8),
        ],
        "rounds": [
            partial(comparisons.against_trainer_rounds, "gpt2", 1, options, True, 3 if few else 6),
            partial(comparisons.against_trainer_rounds, "minilm", 4, options, True, 3 if few else 8),
        ],
    }
    for each in of[name]:
        yield from each()


def measured(name: str, options: Options) -> Part | None:
    """A comparison's figures; None where what it needs is not there."""
    began, load, commit = time.perf_counter(), checks.load_now(), checks.atlas_commit()
    figures = []
    for result in comparison(name, options):
        figures.append(figure_of(result))
        print(page.line(figures[-1]), flush=True)
    if not figures:
        return None
    under = {
        **conditions(),
        **commit,
        "threads": 1,
        "cores": os.cpu_count(),
        "load": [load, checks.load_now()],
        "seconds": round(time.perf_counter() - began),
        "quick": options.quick,
    }
    under["versions"] |= checks.versions(("peft", "accelerate"))
    if name == "flower" and options.flower is not None:
        under["versions"] |= checks.versions_in(options.flower)
    return Part(under, figures)


def figure_of(result: Result) -> Figure:
    """As it is on record."""
    ratios = result.figure if result.figure["n"] > 1 else spread([result.figure["median"]])
    return Figure(result.against, result.work, **ratios, rates=dict(result.rates), processor=result.processor)


def checked(name: str, flower: Path | None) -> Part | None:
    """What a check found; None where what it needs is not there."""
    found = CHECKS[name](flower)
    print(f"{name}: {found}", flush=True)
    return None if found is None else Part(conditions() | checks.atlas_commit(), (), found)


def write_page() -> None:
    """Write page and pictures, where all that they show is on record."""
    record = read()
    if lacking := [name for name in (*COMPARISONS, *CHECKS) if name not in {*record, *page.OPTIONAL}]:
        print(f"no page yet: {', '.join(lacking)} not on record", file=sys.stderr)
        return
    page.PAGE.write_text(page.text(record), encoding="utf-8", newline="\n")
    for path, svg in pictures.all_of(record).items():
        path.write_text(svg, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
