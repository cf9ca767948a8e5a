"""Privacy-aware split federated learning: client memory by the number of its layers, in a closed form."""

from __future__ import annotations

from collections.abc import Iterator

from memory import of_bert

from atlas_cli.audit.depth import measure_depth
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.federation.build import build_for_audit
from published.claim import Claim, Figure, Paper

PAPER = Paper("Privacy-aware split federated learning", "10.1109/JIOT.2025.3600269", secondary=True)
QUESTIONS = {"corpus": "trec-questions", "limit": 200, "test_limit": 100}
SETTING = "BERT-base, batches of 16 x 128 tokens, rank 16 on query and value, AdamW, float32"


def claims() -> Iterator[Claim]:
    """Memory, and what follows from it."""
    yield Claim(
        "client memory, MB, by its layers",
        where="closed form for BERT-base",
        setting=f"{SETTING}; weights, adapters, gradients, moments and what is saved for backward of the blocks alone",
        figures=(Figure("4 layers", "706"), Figure("12 layers", "2118")),
        interval=0.10,
        ranked=True,
        measure=lambda: [memory(4), memory(12)],
        found="The published formula gives its own figures at r = 64 and in MiB. It counts what is saved as if all "
        "were trained with dropout: attention scores (10 B N S^2), which fused attention does not save, and the "
        "inputs of frozen layers (most of 68 B S H), which no gradient needs; atlas' figure is what a step really "
        "saves.",
    )
    yield Claim(
        "less client memory with 4 layers of 12, in %",
        where="from the same",
        setting=f"{SETTING}; as above",
        figures=(Figure("less memory", "66.7"),),
        interval=0.05,
        measure=lambda: [100 * (1 - memory(4) / memory(12))],
        found="Not quite a third is left, since the lowest block saves less: nothing below it needs a gradient.",
    )
    yield Claim(
        "less time, energy and leakage, in %",
        where="abstract",
        setting="its devices, rates and data",
        figures=(Figure("time", "24"), Figure("energy", "40"), Figure("leakage", "7")),
        measure=lambda: [None, None, None],
        found="Neither devices nor rates could be read, and atlas' clock and energy follow from them.",
    )

    yield Claim(
        "layers 1 to 3 leak most: how many deeper ones leak as much as one of them",
        where="measurement by layer",
        setting="pretrained MiniLM (6 blocks), 64 questions of TREC, untrained adapters; the share of tokens that "
        "the better of nearest embedding and ridge inverter finds",
        changed="MiniLM in place of BERT-base, and tokens found in place of its own measure of leakage.",
        figures=(Figure("layers", "0", within=0),),
        slow=True,
        measure=lambda: [deeper_that_leak()],
    )


def deeper_that_leak() -> int:
    """Layers 4 to 6 with a recovery not below the least of 1 to 3."""
    sections = {
        "task_groups": {"g": {"task": "sequence-classification", "data": QUESTIONS}},
        "clients": {"a": {"task_group": "g", "rank": 4, "count": 2}},
        "model": {"name": "minilm", "split_layer": 3},
    }
    federation = build_for_audit(ExperimentConfig.model_validate({"name": "depth", "threads": 1, **sections}))
    found = [max(r.value for r in depth.recovered.values()) for depth in measure_depth(federation, 64)]
    return sum(value >= min(found[:3]) for value in found[3:])


def memory(layers: int) -> float:
    """In MB."""
    return sum(of_bert(layers, 16)) / 1e6
