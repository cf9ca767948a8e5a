"""How far predicted memory is from measured memory.

    python benchmarks/memory.py            about 15 minutes on 2 cores; weights of 4 and 8 bits need bitsandbytes
    python benchmarks/memory.py --quick    about a minute: smaller shapes, the same tables

Prints: predicted against measured over models, ranks, split layers, padding, dtypes and quantisation; what options
save; how small halves of whole models become; a published estimate for BERT-base beside ours; and the resident memory
of a client in a process of its own. Models have random weights: only shapes matter. MB is 1,000,000 bytes, MiB
1,048,576.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import torch
import yaml

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment.allocation.measured_client import ClientMemory, measure_client, take_steps
from atlas_cli.models.families import family_of
from atlas_cli.models.files.architectures import built_in
from atlas_cli.planning.memory.few_blocks import step_of
from atlas_cli.planning.memory.predict import PartyMemory, predict_client
from atlas_cli.planning.memory.step import Step
from atlas_cli.planning.memory_of_plan import Shape
from atlas_cli.planning.plan import Plan, make_plan

EXACT = ("frozen_weights", "adapters", "heads", "gradients", "optimizer", "cut_buffers")
LLAMA = {"num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4}
# by built-in architecture, changes for a model of three blocks: {full, quick}
SHAPES = {
    "gpt2": ({"n_layer": 3}, {"n_layer": 3, "n_embd": 192, "n_head": 3}),
    "bert-base-uncased": (
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 3, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    ),
    "llama-7b": (
        {**LLAMA, "hidden_size": 768, "intermediate_size": 2048, "vocab_size": 8000},
        {**LLAMA, "hidden_size": 192, "intermediate_size": 512, "vocab_size": 8000},
    ),
    "distilbert-base-uncased": ({"n_layers": 3}, {"n_layers": 3, "dim": 192, "n_heads": 3, "hidden_dim": 768}),
    "modernbert-base": (
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 3, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 288},
    ),
    "deberta-v3-base": (
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 3, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    ),
}
# dtype and quantisation
FORMATS = (
    ("float32", "none"),
    ("bfloat16", "none"),
    ("float32", "nf4"),
    ("bfloat16", "nf4-double"),
    ("float32", "int8"),
)
OF_CLIENTS = ("checkpointing", "embedding", "quantization")
ROWS = 5000  # of the token embedding


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    accuracy(quick)
    options(quick)
    small(quick)
    published()
    resident(quick)


def experiment(name: str, rank: int, cut: int, quick: bool, **changes: object) -> dict[str, object]:
    """A config of one client; its data is never read."""
    sizes = SHAPES.get(name, ({}, {}))[quick]
    model: dict[str, object] = {"name": name, "init": "random", "split_layer": cut, "config": sizes}
    client: dict[str, object] = {"task_group": "g", "rank": rank}
    for key, value in changes.items():
        (client if key in OF_CLIENTS else model)[key] = value
    return {
        "name": "memory",
        "device": "cpu",
        "threads": 1,
        "model": model,
        "task_groups": {"g": {"task": "sequence-classification", "classes": ["a", "b"], "data": {"files": "none.csv"}}},
        "clients": {"a": client},
        "training": {"batch_size": 4, "max_length": 32 if quick else 128},
    }


def both(config: dict[str, object], shape: Shape) -> tuple[PartyMemory, ClientMemory]:
    """Predicted and measured in this process."""
    plan = make_plan(ExperimentConfig.model_validate(config))
    rows = ROWS if plan.clients[0].format.embedding == "rows" else None
    return predicted(plan, shape), take_steps(plan, "a", shape, ["a", "b"], rows)


def predicted(plan: Plan, shape: Shape) -> PartyMemory:
    """The one client of a plan."""
    client, model = plan.clients[0], plan.config.model
    step = Step(
        *shape,
        dtype=model.dtype,
        checkpointing=client.checkpointing,
        fused_gelu=model.fused_gelu,
        quantization=client.format.quantization,
        embedding_rows=ROWS if client.format.embedding == "rows" else None,
    )
    return predict_client(plan.family, plan.hf_config, plan.cut, client.ranks, plan.features, step)


def accuracy(quick: bool) -> None:
    """Table 1: a row a model, weights and padding, the worst of 3 ranks x 3 split layers."""
    rows = []
    shape = (4, 32) if quick else (2, 128)
    for name, (dtype, quantization), padded in product(SHAPES, FORMATS, (True, False)):
        if quantization != "none" and not padded:
            continue
        worst = dict.fromkeys(("exact", "saved", "peak"), 0.0)
        largest = 0
        for rank, cut in product((4, 16, 64), (1, 2, 3)):
            config = experiment(name, rank, cut, quick, dtype=dtype, quantization=quantization)
            said, found = both(config, Shape(*shape, padded))
            largest = max(largest, found.peak)
            errors = {
                "exact": max(error(getattr(said, part), found.parts[part]) for part in EXACT),
                "saved": error(said.saved_activations, found.parts["saved_activations"]),
                "peak": error(said.peak, found.peak),
            }
            worst = {key: max(worst[key], errors[key]) for key in worst}
        weights = dtype if quantization == "none" else f"{dtype}, {quantization}"
        shown = (f"{100 * e:.2f}" for e in worst.values())
        rows.append((name, weights, "yes" if padded else "no", mib(largest), *shown))
    table(
        f"Largest error in percent over ranks 4, 16, 64 and split layers 1, 2, 3; batches of {shape[0]} x {shape[1]}",
        ("model (3 blocks)", "weights", "padded", "peak, MiB", "owned", "saved", "peak"),
        rows,
        "owned: weights, adapters, gradients, optimizer, cut buffers; saved: for backward; peak: of all tensors",
    )


def options(quick: bool) -> None:
    """Table 2: what the options of a client do to it, predicted and measured."""
    shape = Shape(4, 32 if quick else 128, True)
    cases: tuple[tuple[str, dict[str, object]], ...] = (
        ("gpt2", {"fused_gelu": False}),
        ("gpt2", {}),
        ("gpt2", {"dtype": "bfloat16"}),
        ("gpt2", {"checkpointing": True}),
        ("gpt2", {"checkpointing": True, "dtype": "bfloat16"}),
        ("gpt2", {"quantization": "nf4"}),
        ("gpt2", {"quantization": "int8"}),
        ("gpt2", {"embedding": "rows"}),
        ("gpt2", {"quantization": "nf4", "embedding": "rows", "checkpointing": True, "dtype": "bfloat16"}),
        ("bert-base-uncased", {}),
        ("bert-base-uncased", {"checkpointing": True}),
    )
    rows = []
    for name, changes in cases:
        said, found = both(experiment(name, 8, 3, quick, **changes), shape)
        words = ", ".join(f"{k}: {v}" for k, v in changes.items()) or "defaults"
        rows.append(
            (
                *(name, words),
                *(mib(said.saved_activations), mib(found.parts["saved_activations"])),
                *(mib(said.peak), mib(found.peak), f"{100 * (said.peak / found.peak - 1):+.2f}"),
            )
        )
    heading = ("model (3 blocks)", "options", "saved, predicted", "measured", "peak, predicted", "measured", "error, %")
    table("Options, in MiB", heading, rows, f"embedding: rows: {ROWS:,} of them")


def small(quick: bool) -> None:
    """Table 3: the halves of whole models, from what they are in float32 on."""
    rows = []
    for name, cut, batch in (("gpt2", 6, 8), ("gemma-3-270m", 9, 4)):
        first = 0
        for changes in (
            {"dtype": "float32"},
            {"embedding": "rows"},
            {"embedding": "rows", "quantization": "nf4"},
            {"embedding": "rows", "quantization": "nf4", "checkpointing": True},
            {"embedding": "rows", "quantization": "nf4", "dtype": "bfloat16"},
        ):
            config = experiment(name, 8, cut, quick, config={}, **changes)
            said, found = both(config, Shape(batch, 16 if quick else 128, True))
            first = first or found.peak
            share = f"{found.peak / first:.3f}"
            figures = mib(said.peak), mib(found.peak), f"{100 * (said.peak / found.peak - 1):+.2f}", share
            words = ", ".join(f"{k}: {v}" for k, v in changes.items())
            rows.append((f"{name}, {cut} blocks, {batch} x {16 if quick else 128}", words, *figures))
    heading = ("half", "options", "peak, predicted", "measured", "error, %", "of float32")
    table("How small a half becomes, rank 8, in MiB", heading, rows, f"embedding: rows: {ROWS:,} of them")


PUBLISHED = (16, 128, 768, 12)  # batch, tokens, width and heads of the estimate for BERT-base


def of_bert(layers: int, rank: int) -> tuple[int, int]:
    """Bytes that these blocks of BERT-base and their adapters hold, and that they save for backward."""
    batch, tokens, width, _ = PUBLISHED
    family = family_of("bert")
    paths = [f"encoder.layer.{n}.{target}" for n in range(layers) for target in family.targets]
    ranks = dict.fromkeys(paths, rank)
    saved = step_of(family, built_in("bert-base-uncased"), range(layers), ranks, Step(batch, tokens)).saved
    frozen = layers * 4 * (12 * width**2 + 13 * width)
    adapters = 4 * len(paths) * rank * 2 * width  # and as much for the gradient, twice as much for AdamW
    return frozen + 4 * adapters, saved


def published() -> None:
    """Table 4: the estimate of the privacy-aware split federated learning paper (10.1109/JIOT.2025.3600269)."""
    batch, tokens, width, heads = PUBLISHED

    def estimate(layers: int, rank: int) -> int:
        weights = 32 * width**2 + 72 * width + 16 * width * width + 8 * width + 32 * width * rank
        activations = 68 * batch * tokens * width + 10 * batch * heads * tokens**2
        return layers * (weights + activations + 8 * batch * tokens * (rank + width) + 64 * width * rank)

    rows = []
    for layers, rank in ((1, 16), (4, 16), (12, 16), (1, 64), (4, 64), (12, 64)):
        said = estimate(layers, rank)
        held, saved = of_bert(layers, rank)
        rows.append(
            (
                *(str(layers), str(rank), f"{said / 1e6:.1f}", mib(said)),
                *(mib(held), mib(saved), mib(held + saved), f"{said / (held + saved):.2f}"),
            )
        )
    table(
        "BERT-base, batch 16, 128 tokens: the published formula and ours",
        ("layers", "rank", "published, MB", "MiB", "ours: held, MiB", "saved, MiB", "sum, MiB", "ratio"),
        rows,
        "Published: 176.6 MB a layer, 706 MB for 4, 2119 MB for 12, at r = 16. The published formula gives these\n"
        "numbers at r = 64 and in MiB; at r = 16 it gives the rows above. It counts weights as we do (48 H^2), and\n"
        "what is saved as if all were trained with dropout: attention scores and probabilities (10 B N S^2), which\n"
        "fused attention does not save, and the inputs of frozen layers (most of 68 B S H), which no gradient needs.",
    )


def resident(quick: bool) -> None:
    """Table 5: a client in a process of its own."""
    rows = []
    for name in list(SHAPES)[: 2 if quick else None]:
        for dtype in ("float32",) if quick else ("float32", "bfloat16"):
            config = experiment(name, 8, 3, False, dtype=dtype)
            shape = Shape(8, 128, True)
            peak = predicted(make_plan(ExperimentConfig.model_validate(config)), shape).peak
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "config.yaml"
                path.write_text(yaml.safe_dump(config), encoding="utf-8")
                found = measure_client(path, [], "a", shape)
            rows.append(
                (
                    *(name, dtype, mib(peak), mib(found.peak), f"{100 * (peak / found.peak - 1):+.2f}"),
                    *(mib(found.resident), f"{100 * (peak / found.resident - 1):+.2f}"),
                )
            )
    table(
        "A client alone in a process, batches of 8 x 128, in MiB",
        ("model (3 blocks)", "dtype", "predicted peak", "of tensors", "error, %", "resident", "error, %"),
        rows,
        "resident: peak of the process, less the interpreter with torch loaded",
    )


def error(said: int, found: int) -> float:
    """Relative, without sign."""
    return abs(said - found) / found if found else float(said != found)


def mib(size: int) -> str:
    """Bytes in MiB, one decimal."""
    return f"{size / 2**20:.1f}"


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> None:
    """A Markdown table, as it can be put into docs."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    print(f"\n{title}\n")
    for row in (headings, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |")
    if note:
        print(f"\n{note}")


if __name__ == "__main__":
    main()
