"""Measure what papers claim, and compare the verdicts with those on record.

    python benchmarks/published/all.py                  all claims
    python benchmarks/published/all.py --quick          those that take seconds
    python benchmarks/published/all.py fedex_lora mira  those of two papers
    python benchmarks/published/all.py --write          and write the record and docs/results/published.md

Ends with 1 where a verdict is worse than the one on record.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is run as a file

from published import page
from published.claim import Claim
from published.records import Record, Records, measured, papers, read, regressions, write


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a claim; the exit status."""
    modules = papers()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", nargs="*", metavar="PAPER", help=f"of {', '.join(modules)}")
    parser.add_argument("--quick", action="store_true", help="leave out what takes more than seconds")
    parser.add_argument("--write", action="store_true", help="write the record and the page")
    given = parser.parse_args(arguments)
    if unknown := set(given.papers) - set(modules):
        parser.error(f"no file about {', '.join(sorted(unknown))} in benchmarks/published/")
    recorded, now = read(), Records()
    print("claim | paper | atlas | verdict", flush=True)
    for name in given.papers or modules:
        for claim in modules[name].claims():
            if not (given.quick and claim.slow):
                now.setdefault(name, {})[claim.name] = record = measured(claim)
                print(line(name, claim, record), flush=True)
    if given.write:
        recorded = kept(recorded, now, {name: [c.name for c in module.claims()] for name, module in modules.items()})
        write(recorded)
        page.PAGE.write_text(page.text(modules, recorded), encoding="utf-8", newline="\n")
        return 0
    found = regressions(now, recorded)
    for each in found:
        print(f"worse: {each}", file=sys.stderr)
    return 1 if found else 0


def kept(recorded: Records, now: Records, names: dict[str, list[str]]) -> Records:
    """What is on record after this run, without claims that no file makes any more."""
    whole = {paper: {**recorded.get(paper, {}), **now.get(paper, {})} for paper in names}
    return {p: own for p, all_of in whole.items() if (own := {n: r for n, r in all_of.items() if n in names[p]})}


def line(name: str, claim: Claim, record: Record) -> str:
    """A claim on a line."""
    published = " / ".join(record.printed.values())
    here = " / ".join(page.shown(value, record.printed[figure]) for figure, value in record.measured.items())
    return f"{name}: {claim.name} ({claim.where}) | {published} | {here} | {record.verdict}"


if __name__ == "__main__":
    sys.exit(main())
