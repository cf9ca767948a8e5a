"""atlas beside other ways to do the same training, side by side in one run.

    python benchmarks/speed.py --quick                        about 8 minutes on 2 CPU cores
    python benchmarks/speed.py                                about an hour: more sizes, more turns
    python benchmarks/speed.py --only trainer products        some of the comparisons
    python benchmarks/speed.py --set engine.fuse=off          with changes to the config of all of them
    python benchmarks/speed.py --flower flower-env            with Flower, in an environment that is made there
    python benchmarks/speed.py --history                      and a line of this commit in benchmarks/history.jsonl
    python benchmarks/speed.py --profile                      where the time of a step goes, instead

Needs ``pip install -e '.[dev]'`` (peft and accelerate). OpenFedLLM's loop ("rounds") needs no more.

Contestants train the same parameters from the same values on the same texts, and take turns step by step; a figure is
the median of the ratios of neighbours, in real tokens a second. Sentences are those of movie-sentiment (mean 24
tokens). gpt2 has the size of GPT-2 small and random weights, cut after 6 of 12 blocks; llama that of SmolLM2 135M,
cut after 15 of 30; minilm is the real one, cut after 3 of 6. LoRA of rank 8 in all blocks, AdamW, float32, no dropout.
What a comparison takes of memory is given back before the next begins (contestants/freed_memory.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

NAMES = ("trainer", "split", "flower", "rounds", "products", "prefix", "memory")
HEADING = "\n| atlas against | work | ratio | quartiles | target | other figures |\n|---|---|---|---|---|---|"


def main() -> int:
    """Measure, print and write what was asked for."""
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)  # read when torch is loaded
    import torch
    from beside.checks import load_now
    from contestants import history
    from contestants.comparisons import COMPARISONS, Options, Result
    from contestants.flower import environment

    from atlas_cli.errors import AtlasError

    torch.set_num_threads(args.threads)
    facts, began = machine(args.threads, args.quick, args.overrides), time.perf_counter()
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    found: list[Result] = []
    code, commit, load = 0, None, load_now()
    try:
        commit = history.unchanged_commit() if args.history else None
        options = Options(args.quick, args.overrides, args.flower and environment(args.flower))
        if args.profile:
            from contestants.where import profile

            profile(options)
            return 0
        print(HEADING, flush=True)
        for name in args.only or COMPARISONS:
            for result in COMPARISONS[name](options):
                print(line(result), flush=True)
                found.append(result)
    except AtlasError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    if found:
        print(f"\nmeasured in {time.perf_counter() - began:.0f} s; of memory the ratio is a share: lower is better")
    if commit is not None and found and not code:
        history.append(history.line(commit, facts, [load, load_now()], found))
        history.PAGE.write_text(history.page(history.read()), encoding="utf-8", newline="\n")
    if args.json:
        results = [{**asdict(result), "reached": result.reached} for result in found]
        args.json.write_text(json.dumps({"machine": facts, "results": results}, indent=2) + "\n", encoding="utf-8")
    if args.picture and found:
        from contestants.picture import draw

        draw(found, args.picture)
    return code


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and turns")
    parser.add_argument("--only", nargs="+", default=[], choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="KEY=VALUE", help="config overrides")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for everybody (default 1)")
    parser.add_argument("--flower", type=Path, metavar="FOLDER", help="an environment with Flower, made if need be")
    parser.add_argument("--profile", action="store_true", help="shares of a step by kind of operation")
    parser.add_argument("--history", action="store_true", help="keep the figures by commit, and write their page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them beside their targets: .png or .svg")
    args = parser.parse_args()
    # before minutes of measuring, not after
    if args.threads < 1:
        parser.error(f"--threads: {args.threads} is not 1 or more")
    for option, path in (("--json", args.json), ("--picture", args.picture)):
        if path and not path.absolute().parent.is_dir():
            parser.error(f"{option}: there is no folder {path.parent}; make it first")
    if args.picture and args.picture.suffix not in (".png", ".svg"):
        parser.error(f"--picture: {args.picture} is neither .png nor .svg")
    if lacking := [name for name in ("peft", "accelerate") if importlib.util.find_spec(name) is None]:
        parser.error(f"needs {lacking[0]}; pip install -e '.[dev]'")
    return args


def machine(threads: int, quick: bool, overrides: Sequence[str]) -> dict[str, Any]:
    """What the figures depend on."""
    import peft
    import torch
    import transformers

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "quick": quick,
        "overrides": " ".join(overrides) or "none",
    }


def processor() -> str:
    """Its name where Linux tells it, else the architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def line(result: Any) -> str:
    """A line of the table, Markdown."""
    figure, target = result.figure, ""
    if result.target is not None:
        target = f"{'at most' if result.at_most else 'at least'} {result.target:g}: {'yes' if result.reached else 'no'}"
    spread = f"{figure['q1']:.2f} to {figure['q3']:.2f} ({figure['n']})" if figure["n"] > 1 else ""
    rates = ", ".join(f"{name} {value:.1f}" for name, value in result.rates.items())
    return f"| {result.against} | {result.work} | {figure['median']:.2f} | {spread} | {target} | {rates} |"


if __name__ == "__main__":
    sys.exit(main())
