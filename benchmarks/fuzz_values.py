"""Values and keys that ``fuzz_configs.py`` puts into configs: of any type, of the right type, and bits of YAML."""

from __future__ import annotations

from typing import Any

FILES = {
    "sequence-classification": "tone.csv",
    "token-classification": "tags.jsonl",
    "question-answering": "questions.jsonl",
    "causal-lm": "lines.txt",
    "instruction": "tell.jsonl",
    "regression": "alike.tsv",
    "chat": "talks.jsonl",
    "multi-label": "kinds.jsonl",
    "multiple-choice": "choices.jsonl",
}
SCALARS = [
    *(0, 1, -1, 2, 3, 64, 9_999, 10**6, 10**12, 10**30, -(10**30), True, False, None),
    *(0.0, 0.5, -0.5, 1.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan")),
    *("", " ", "auto", "none", "no", "1", "0x10", "1e-4", "12:30", "a b", "a.b", "../..", "/", "~", "*", "%s", "{0}"),
    *("x" * 500, "é", "\u2028", "\x07", "a\nb", "[", "cpu", "cuda:99", "mean", "iid", "column", "explicit", "cosine"),
    *("sequence-classification", "causal-lm", "trec-questions", "gpt2", "minilm", "delta-svd", "flora", "federated"),
    *("2 GiB", "-1 GiB", "1e999 GiB", "0 B", "5 Mbit/s", "40 ms", "20 GFLOP/s", "3 W", "phone", "jetson"),
]
KEYS = [
    *("name", "seed", "mode", "model", "lora", "rank", "alpha", "server", "devices", "task_groups", "clients", "data"),
    *("partition", "training", "rounds", "aggregation", "method", "evaluation", "checkpoints", "output", "allocation"),
    *("count", "device", "weight", "task", "text", "label", "files", "corpus", "hub", "limit", "config", "adapter"),
    *("options", "cross_group", "schedule", "warmup", "betas", "shards", "column", "[key]", "zzz", 0, -1, 10**30),
    *("split_layer", "checkpointing", "cohort", "labels", "server_update", "classes", "targets", "init", "tokenizer"),
    *(True, None, 1.5, "", " ", "a.b", "é", "x" * 100),
]
# what the schema lets pass, and what must be found by the checks of the plan and the data
NUMBERS = [1, 2, 3, 5, 31, 32, 33, 64, 1000, 9_999, 10**6, 10**9, 10**12, 10**20]
SHARES = [1e-300, 1e-9, 0.01, 0.3, 0.5, 0.999999, 1.0, 7.5, 1e9, 1e300]
CUTS: list[Any] = [1, 2, 3, 4, 5, 10**9, "auto", None]
RANKS: list[Any] = [*NUMBERS, "auto", {0: 4}, {1: 10**9}, {3: 2, 0: 1}, {7: 7}, {10**12: 1}]
SHAPES = [{}, {"vocab_size": 10**12}, {"num_hidden_layers": 400}, {"hidden_size": -1}, {"zzz": 1}, {"n_head": 0}]
DEVICES = [{}, {"memory": "1 B"}, {"memory": "900 TiB"}, {"compute": "1 FLOP/s"}, {"uplink": "1 bit/s", "watts": "1 W"}]
PATHS = [*FILES.values(), "nowhere.csv", ".", "/dev/null", "*.csv", "bert/config.json"]
SHARDS: list[Any] = [{}, {"phones-1": [0, "1-3"]}, {"phone-1": ["9-1"]}, {"x": [-1]}, {"phone-1": [10**12]}]
PLAUSIBLE: dict[str, list[Any]] = {
    "seed": [0, *NUMBERS],
    "mode": ["split-federated", "centralized", "local-only", "federated"],
    "device": ["cpu", "auto", "cuda:7", "mps"],
    "threads": NUMBERS,
    "model.split_layer": CUTS,
    "model.init": ["random", "auto", "pretrained"],
    "model.dtype": ["float32", "bfloat16"],
    "model.name": ["gpt2", "minilm", "bert-base-uncased", "no/such", ".", "/dev/null", "a b", "llama-7b", ""],
    "model.tokenizer": ["gpt2-bpe", "no/such", "/dev/null", "."],
    "model.config": SHAPES,
    "lora.rank": RANKS,
    "lora.alpha": SHARES,
    "lora.targets": ["auto", [], ["query"], ["zzz"], [""], ["query", "query"], ["."], ["*"]],
    "server.rank": [0, *NUMBERS],
    "server.device": ["phone", "zzz", "tight"],
    "devices.tight": DEVICES,
    "clients.X.rank": RANKS,
    "clients.X.split_layer": CUTS,
    "clients.X.device": ["tight", "phone", "zzz", "laptop"],
    "clients.X.count": NUMBERS,
    "clients.X.weight": SHARES,
    "clients.X.checkpointing": [True, False],
    "task_groups.X.task": list(FILES),
    "task_groups.X.classes": [["a", "b"], ["neg", "pos"], ["neg", "neg"], ["neg", ""], ["x"] * 50],
    "task_groups.X.adapter": [".", "/dev/null", "nowhere", "bert"],
    "task_groups.X.pooling": ["mean", "first", "last"],
    "task_groups.X.data": [{"files": path} for path in PATHS],
    "task_groups.X.data.text": ["text", "label", "zzz", ""],
    "task_groups.X.data.label": ["text", "label", "zzz", ""],
    "task_groups.X.data.limit": NUMBERS,
    "task_groups.X.data.test_limit": NUMBERS,
    "task_groups.X.data.test_fraction": SHARES,
    "task_groups.X.data.test_files": ["tone.csv", "nowhere.csv", []],
    "task_groups.X.data.split_by": ["text", "label", "zzz"],
    "task_groups.X.data.subset": ["x"],
    "allocation": [{"r_min": 5, "r_max": 2}, {"r_min": 10**9}, {"r_max": 10**12}, {"uplink_seconds": 1e-300}],
    "partition": [
        *({"scheme": s, "alpha": a} for s in ("iid", "dirichlet-label", "dirichlet-quantity") for a in SHARES),
        *({"scheme": "column", "column": c} for c in ("text", "label", "zzz")),
        *({"scheme": "explicit", "shards": shards} for shards in SHARDS),
    ],
    "partition.local_test": SHARES,
    "partition.min_examples": NUMBERS,
    "training.rounds": NUMBERS,
    "training.local_steps": NUMBERS,
    "training.batch_size": NUMBERS,
    "training.max_length": NUMBERS,
    "training.cohort": SHARES,
    "training.server_update": ["pooled", "sequential", "per-client"],
    "training.labels": ["client", "server"],
    "training.client_optimizer": [{"lr": x} for x in SHARES],
    "training.schedule": [{"name": "cosine", "warmup": x} for x in SHARES],
    "training.autocast": ["bfloat16"],
    "aggregation.method": [
        *("zero-pad", "hetlora", "flexlora", "lora-fair", "flora", "fedex", "ffa", "fedsa", "none"),
        *("raflora", "rolora", "fedsvd", "flora-na", "fed-plora", "ravan"),
    ],
    "aggregation.options": [{}, {"ridge": 1e-6}, {"zzz": 1}, {"prune": "x"}],
    "aggregation.weights": ["examples", "uniform", "inverse-rank"],
    "aggregation.server_memory": ["1 B", "900 TiB"],
    "aggregation.cross_group": [{"strength": x} for x in SHARES],
    "evaluation.every": NUMBERS,
    "evaluation.batch_size": NUMBERS,
    "checkpoints": [{"every": 10**9}, {"keep": 10**9}],
    "output.dir": ["", ".", "/dev/null/x", "x" * 300, "~", "runs"],
}
SNIPPETS = [
    *(
        "&a [*a]",
        "*nowhere",
        "<<: *x",
        "!!python/object/apply:os.system [id]",
        "!!binary AAAA",
        "? [a]: b",
        "---",
        "...",
    ),
    *("%YAML 9.9", "\t", "\x00", "\ufeff", "{", "}", "[", "- ", ": ", "'", '"', "|", ">", "#", "@", "`", "\r", "\x85"),
    *("a: " * 50, "[" * 300, "{a: " * 60, "2026-01-01", "1_000", "0o17", "=", "~", "!", "!!float x", "&b b", "\ud7ff"),
]
