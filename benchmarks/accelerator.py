"""atlas beside other ways to train on one GPU (or, to try it, on a CPU), in one run and without a network.

    python benchmarks/accelerator.py --size small                GPT-2 small, under 5 minutes on a GPU
    python benchmarks/accelerator.py --size small large          and a model of the shape of Llama 3.2 1B
    python benchmarks/accelerator.py --size tiny --device cpu    everything, in seconds, to see that it runs
    python benchmarks/accelerator.py --json found.json --limit 420

Weights are random and texts made up, so that only the speed means something. All train LoRA of rank 8 in all blocks
with AdamW, from the same values on the same texts: real tokens a second, peak memory of tensors on the GPU beyond what
lay there before, and the share of the rate of one large matrix product of the same dtype (products of frozen layers,
forward and back to their input; attention is not counted). "float32" is full precision, without TF32; "bfloat16" has
frozen weights and activations in bfloat16, and adapters in float32. A part that fails says why, and the others run.

Exit code: 0; 1 if a part failed, or was left out for want of time; 2 for a wrong option or a package that is missing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

NEEDED = {
    **{name: name for name in ("torch", "transformers", "tokenizers", "peft", "accelerate", "safetensors", "pydantic")},
    **{name: name for name in ("numpy", "rich", "packaging", "filelock", "psutil", "jinja2", "huggingface_hub")},
    "yaml": "pyyaml",
}  # modules, and the packages that have them
COLUMNS = ("size", "dtype", "part", "tokens/s", "peak, MiB", "TFLOP/s", "share of the product's rate", "note")
NAMES = ("tiny", "small", "large")


def main() -> int:
    """Measure, print and write what was asked for."""
    args = arguments()
    if lacking := [package for module, package in NEEDED.items() if find_spec(module) is None]:
        wheels = "without a network: pip download them elsewhere, and pip install --no-index --find-links FOLDER"
        print(f"needs {', '.join(lacking)}: pip install {' '.join(lacking)} ({wheels})", file=sys.stderr)
        return 2
    import torch
    from contestants.on_a_gpu import parts
    from contestants.places import SIZES, Part, Place

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("torch sees no GPU here; --device cpu tries everything on a CPU", file=sys.stderr)
        return 2
    facts, ends = machine(args.device), time.monotonic() + args.limit
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    print(f"\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    found: list[Part] = []
    place = Place(torch.device(args.device), args.seconds)
    for name in args.size:
        for part in parts(SIZES[name], place, args.only, lambda: time.monotonic() < ends):
            print(line(part), flush=True)
            found.append(part)
            if args.json:  # what was measured is kept whatever comes
                record = {"machine": facts, "parts": [asdict(each) for each in found]}
                args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    bad = [part for part in found if part.status in ("failed", "no time")]
    for part in bad:
        print(f"{part.status}: {part.size}, {part.dtype}, {part.name}: {part.note}", file=sys.stderr)
    return 1 if bad else 0


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=["small"], choices=NAMES, metavar="SIZE", help=", ".join(NAMES))
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu (default cuda)")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="parts whose name has one of these in it")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timed steps of each (default 3)")
    parser.add_argument("--limit", type=float, default=420.0, help="no part begins after so many seconds (default 420)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, after every part")
    args = parser.parse_args()
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent}; make it first")
    if args.device != "cpu" and not args.device.startswith("cuda"):
        parser.error(f"--device: {args.device} is none of cuda, cuda:1, cpu")
    return args


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    import peft
    import torch
    import transformers

    cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads",
        "cuda": torch.version.cuda if cuda else "-",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def line(part: Any) -> str:
    """A line of the table, Markdown."""
    figures = {
        "tokens_per_second": ",.0f",
        "peak_mib": ",.1f",
        "tflops": ".3g",
        "share": ".3f",
    }
    cells = ["-" if (value := getattr(part, key)) is None else format(value, form) for key, form in figures.items()]
    note = part.note if part.status == "ok" else f"{part.status}: {part.note}"
    return f"| {part.size} | {part.dtype} | {part.name} | {' | '.join(cells)} | {note} |"


if __name__ == "__main__":
    sys.exit(main())
