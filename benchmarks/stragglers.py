"""What waiting for slow clients costs: virtual seconds to an accuracy, of rounds and of buffered merges.

    python benchmarks/stragglers.py                       stragglers of 4 x and 16 x, three seeds
    python benchmarks/stragglers.py --seeds 1 --targets 0.82
    python benchmarks/stragglers.py --seeds 1 training.rounds=1     any further overrides; shows that all works

Questions of TREC (six classes, 1,200 to train on, 300 to test on) on eight clients of ranks 4 and 16, each with a mix
of classes of its own, all on one device but for two that are slower by the factor. The model is the first two layers of
the packaged MiniLM, cut after the first. Rounds that wait for all are compared with ``training.asynchrony`` for several
buffers; the server steps on each batch in turn in both, at constant learning rates. A run of buffer K has 8/K times the
rounds, so that as many updates are merged.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

from atlas_cli.config.load import load_config
from atlas_cli.experiment.session import start
from atlas_cli.packages.models import model_path
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal

CLIENTS, SLOW, BUFFERS = 8, ("small-1", "large-1"), (None, 4, 2)
CONFIG = """
name: stragglers
model: {name: ./model, split_layer: 1}
lora: {alpha: 16}
server: {rank: 8}
task_groups:
  questions:
    task: sequence-classification
    data: {corpus: trec-questions, limit: 1200, test_limit: 300}
clients:
  small: {task_group: questions, rank: 4, count: 4, device: phone-6gib}
  large: {task_group: questions, rank: 16, count: 4, device: phone-6gib}
partition: {scheme: dirichlet-label, alpha: 0.5, local_test: 0}
training:
  rounds: 12
  local_steps: 4
  batch_size: 16
  max_length: 32
  server_update: sequential
  client_optimizer: {lr: 0.002}
  server_optimizer: {lr: 0.002}
"""


def write_experiment(folder: Path) -> Path:
    """The shortened model, and the config beside it."""
    source = model_path("minilm")
    model = AutoModel.from_pretrained(source)
    model.encoder.layer, model.config.num_hidden_layers = model.encoder.layer[:2], 2
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(source).save_pretrained(folder / "model")
    path = folder / "stragglers.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def run(
    config: Path, buffer: int | None, factor: float, seed: int, overrides: Sequence[str]
) -> list[tuple[float, float]]:
    """Train once; the virtual time and the accuracy of each evaluation."""
    slow = (f"faults.slow.{name}={factor:.1f}" for name in SLOW)
    changes = [*slow, f"seed={seed}", f"output.dir={config.parent / 'runs'}", *overrides]
    more = 1 if buffer is None else CLIENTS // buffer
    rounds = load_config(config, changes).config.training.rounds
    changes += [f"training.rounds={more * rounds}", f"evaluation.every={more}"]
    if buffer is not None:
        changes.append(f"training.asynchrony.buffer={buffer}")
    lines = start(load_config(config, changes).config, PlainProgress(Terminal(quiet=True))).read_lines("metrics.jsonl")
    times = itertools.accumulate(line["simulated_seconds"] or 0.0 for line in lines)
    return [(now, line["test"]["accuracy"]) for now, line in zip(times, lines, strict=True) if line["test"]]


def reached(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """The first time at which an evaluation has the target; None if none has."""
    return next((now for now, accuracy in curve if accuracy >= target), None)


def over_seeds(times: Sequence[float | None]) -> str:
    """The median with the least and the most, and how many seeds have one, where not all do."""
    there = [time for time in times if time is not None]
    if not there:
        return "-"
    spread = f" ({min(there):.1f} to {max(there):.1f})" if len(there) > 1 else ""
    some = f", {len(there)} of {len(times)} seeds" if len(there) < len(times) else ""
    return f"{statistics.median(there):.1f}{spread}{some}"


def main() -> None:
    """Run the comparison and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factors", type=float, nargs="+", default=[4.0, 16.0])
    parser.add_argument("--targets", type=float, nargs="+", default=[0.8, 0.84], help="test accuracies")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    to = "".join(f"virtual seconds to {target:g} | " for target in given.targets)
    print(f"| stragglers | merges | {to}last accuracy | virtual seconds in all |")
    print("|---|---|" + "---|" * (len(given.targets) + 2))
    with tempfile.TemporaryDirectory() as folder:
        config = write_experiment(Path(folder))
        for factor, buffer in itertools.product(given.factors, BUFFERS):
            curves = [run(config, buffer, factor, seed, given.overrides) for seed in range(given.seeds)]
            times = "".join(f"{over_seeds([reached(c, target) for c in curves])} | " for target in given.targets)
            last = statistics.mean(curve[-1][1] for curve in curves)
            whole = over_seeds([curve[-1][0] for curve in curves])
            what = "rounds" if buffer is None else f"buffer of {buffer}"
            print(f"| {factor:g} x | {what} | {times}{last:.3f} | {whole} |", flush=True)


if __name__ == "__main__":
    main()
