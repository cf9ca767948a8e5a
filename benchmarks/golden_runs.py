"""The runs of ``golden.py``: command lines by name.

A line of ``RUNS`` begins with the config (see ``golden_inputs.py``); the rest changes it, and ``atlas train`` runs it.
``COMMANDS`` are whole command lines, one after the other: RUN is the newest run directory among those that they made,
OUT a folder beside them, and ``stop 1 train ...`` interrupts the command in the round after round 1.
"""

from __future__ import annotations

from golden_inputs import CONFIGS

LINK = "uplink: 2 Mbit/s, downlink: 8 Mbit/s, latency: 40 ms"
PHONE = f"'devices.phone={{memory: 2 MiB, compute: 1 GFLOP/s, {LINK}, watts: 3 W}}'"
ON_PHONES = f"{PHONE} clients.a.device=phone clients.b.device=phone clients.c.device=phone clients.d.device=phone"
UNIFORM = "aggregation.weights=uniform"
NO_SERVER_LABELS = f"training.labels=client server.rank=0 {UNIFORM}"
RECORD = "'audit={record: {rounds: [0, 1]}}'"
METHODS = ["delta-svd", "fedex", "fedsa", "ffa", "flexlora", "flora", "hetlora", "lora-fair", "median", "none"]
METHODS += ["trimmed-mean", "zero-pad"]
NEWER_METHODS = ["raflora", "rolora", "fedsvd", "flora-na", "fed-plora"]

RUNS = {
    **{f"family/{name}": name for name in CONFIGS},
    **{f"u-shaped/{name}": f"{name} training.labels=client" for name in ("bert", "roberta", "gpt2", "qwen3")},
    **{f"method/{name}": f"bert aggregation.method={name}" for name in METHODS},
    **{f"method/{name}": f"bert aggregation.method={name} training.rounds=3" for name in NEWER_METHODS},
    **{f"method-gpt2/{name}": f"gpt2 aggregation.method={name}" for name in METHODS[1:8]},
    "method/hetlora-prune": "bert aggregation.method=hetlora 'aggregation.options={prune: 0.5, penalty: 0.1}'",
    "method/lora-fair-ridge": "bert aggregation.method=lora-fair 'aggregation.options={ridge: 0.01}'",
    "method/trimmed": "bert aggregation.method=trimmed-mean 'aggregation.options={trim: 0.4}' clients.a.count=3",
    "method/ravan": "bert aggregation.method=ravan 'aggregation.options={heads: 4, size: 8}' training.rounds=3",
    "method/ravan-weight": "gpt2 aggregation.method=ravan 'aggregation.options={heads: 2, size: 16, select: weight}' "
    "training.rounds=3 training.server_update=per-client training.labels=client",
    "update/sequential": "bert training.server_update=sequential",
    "update/sequential-gpt2-u": "gpt2 training.server_update=sequential training.labels=client",
    "update/per-client": "bert training.server_update=per-client",
    "update/per-client-u": "gpt2 training.server_update=per-client training.labels=client",
    "update/heads-only": "bert server.rank=0",
    "mode/centralized": "bert mode=centralized",
    "mode/centralized-gpt2": "gpt2 mode=centralized",
    "mode/local-only": "bert mode=local-only",
    "mode/federated": "bert mode=federated",
    "mode/federated-gpt2": "gpt2 mode=federated aggregation.method=flora",
    "weights/tokens": "bert aggregation.weights=tokens",
    "weights/inverse-rank": "bert aggregation.weights=inverse-rank",
    "weights/own": f"bert {UNIFORM} clients.a.weight=3",
    "optimizer/momentum": "bert 'aggregation.optimizer={name: momentum}' training.rounds=3",
    "optimizer/adam": "gpt2 'aggregation.optimizer={name: adam, lr: 0.01, second: row-column}' training.rounds=3",
    "optimizer/fednova": "bert aggregation.normalise=fednova clients.a.local_steps=1",
    "drift/fedprox": "bert 'training.drift={name: fedprox, mu: 0.1}'",
    "drift/scaffold": "gpt2 training.drift.name=scaffold",
    "learns/kinds": f"bert {ON_PHONES} clients.a.learns=frozen clients.a.rank=0 clients.b.learns=zeroth-order "
    "clients.c.learns=auxiliary",
    "learns/kinds-gpt2": "gpt2 clients.a.learns=frozen clients.a.rank=0 clients.b.learns=zeroth-order "
    "clients.c.learns=auxiliary",
    "asynchrony/sequential": f"bert {ON_PHONES} 'faults.slow={{b: 4}}' training.server_update=sequential "
    "training.asynchrony.buffer=1 training.rounds=4",
    "asynchrony/per-client": f"gpt2 {ON_PHONES} 'faults.slow={{b: 4}}' training.server_update=per-client "
    "training.asynchrony.buffer=2 training.rounds=4",
    "groups/softmax": "bert 'aggregation.cross_group={strength: 0.5, temperature: 0.5}'",
    "groups/laplacian": "gpt2 'aggregation.cross_group={strength: 0.3, graph: laplacian}'",
    "groups/small-merge": "bert 'aggregation.server_memory=64 KiB' aggregation.error_ledger=false",
    "clusters/fingerprints": "classes 'clustering={k: 2, batches: 4, size: 8}'",
    "clusters/again": "classes 'clustering={k: auto, every: 1, batches: 2, size: 8}' training.rounds=3",
    "clusters/gpt2": "gpt2 'clustering={k: auto, min_silhouette: -1, batches: 3}' aggregation.method=hetlora",
    "clusters/oracle": "bert clustering.by=oracle",
    "clusters/random": "bert clustering.by=random",
    "clusters/single": "bert clustering.by=single",
    "clusters/noise": "classes 'clustering={k: 2, batches: 4}' 'privacy.fingerprints={clip: 1.0, epsilon: 8}'",
    "privacy/activations": "bert 'privacy.activations={clip: 8.0, noise_multiplier: 0.2}'",
    "privacy/activations-epsilon": "gpt2 'privacy.activations={clip: 8.0, epsilon: 900}'",
    "privacy/updates": f"bert aggregation.method=ffa {UNIFORM} 'privacy.updates={{clip: 0.1, epsilon: 100}}'",
    "privacy/updates-svd": f"gpt2 {UNIFORM} 'privacy.updates={{clip: 0.1, noise_multiplier: 0.5}}'",
    "privacy/updates-client": f"bert {UNIFORM} 'privacy.updates={{clip: 0.1, noise_multiplier: 0.5, where: client}}'",
    "privacy/examples": f"bert {NO_SERVER_LABELS} 'privacy.examples={{clip: 1.0, epsilon: 8}}'",
    "privacy/examples-gpt2": f"gpt2 {NO_SERVER_LABELS} 'privacy.examples={{clip: 1.0, noise_multiplier: 0.7}}'",
    "privacy/labels": "classes 'privacy.labels={epsilon: 2}'",
    "privacy/labels-u": "classes training.labels=client 'privacy.labels={epsilon: 1, correction: none}'",
    "privacy/nopeek": "bert 'privacy.nopeek={weight: 0.5}'",
    "privacy/mask": "bert privacy.mask_gradients=true",
    "privacy/pad": "gpt2 privacy.pad_lengths=8",
    "privacy/bfloat16": "bert wire.activations.codec=bfloat16 wire.gradients.codec=bfloat16",
    "privacy/int8": "gpt2 wire.activations.codec=int8 wire.gradients.codec=int8",
    "privacy/all": f"classes {UNIFORM} wire.activations.codec=int8 wire.gradients.codec=int8 "
    "privacy.pad_lengths=8 'privacy.nopeek={weight: 0.1}' "
    "'privacy.activations={clip: 8.0, noise_multiplier: 0.05}' 'privacy.labels={epsilon: 3}' "
    "'privacy.updates={clip: 0.5, noise_multiplier: 0.1, where: client}'",
    "engine/fuse-off": "bert engine.fuse=off",
    "engine/offload": "gpt2 'engine.offload=1 KiB' training.cohort=0.5 training.rounds=3",
    "engine/prefix-cache": "bert 'engine.prefix_cache=1 MiB' 'clients.a.rank={1: 4}' 'clients.d.rank={1: 2}'",
    "engine/prefix-cache-disk": "gpt2 'engine.prefix_cache=1 KiB' 'clients.a.rank={1: 4}' 'clients.b.rank={1: 2}'",
    "engine/no-prepack": "bert engine.prepack=null",
    "client/checkpointing": "bert clients.a.checkpointing=true clients.c.checkpointing=true",
    "client/cuts": "bert clients.a.split_layer=1 clients.c.split_layer=3",
    "client/cuts-u": "gpt2 clients.a.split_layer=3 clients.d.split_layer=3 training.labels=client",
    "client/dtypes": "bert clients.a.dtype=bfloat16 clients.d.dtype=bfloat16",
    "client/bfloat16": "llama model.dtype=bfloat16",
    "client/rank-auto": f"bert {PHONE} devices.phone.memory='0.5 MiB' clients.a.device=phone clients.a.rank=auto",
    "client/rank-random": f"gpt2 {PHONE} clients.c.device=phone clients.c.rank=auto allocation.importance=random "
    "allocation.r_max=8 allocation.uplink_seconds=1.0",
    "client/cut-auto": f"bert {ON_PHONES} model.split_layer=auto devices.phone.memory='0.5 MiB'",
    "client/cohort": "bert training.cohort=0.5 training.rounds=3 clients.a.count=3",
    "faults/drop": "bert faults.drop=0.4 training.rounds=3",
    "faults/crash": "gpt2 'faults.crash_at={a: {round: 1, step: 1}, d: {round: 2}}'",
    "faults/crash-sequential": "bert training.server_update=sequential 'faults.crash_at={a: {round: 1, step: 1}}'",
    "faults/slow": f"bert {ON_PHONES} 'faults.slow={{b: 50}}' 'training.deadline=20 s'",
    "faults/clock": f"gpt2 {ON_PHONES} server.device=phone",
    "faults/screen": "bert screen.max_norm_ratio=1.01 clients.a.count=3",
    "faults/nonfinite": "bert training.on_nonfinite=drop-client training.client_optimizer.lr=1e30 "
    "training.max_grad_norm=null training.client_optimizer.name=sgd",
    "faults/too-few": "bert training.min_clients=4 'faults.crash_at={a: {round: 2}}'",
    "training/sgd": "bert 'training.client_optimizer={name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 0.01}' "
    "'training.server_optimizer={name: sgd, lr: 0.05}'",
    "training/adamw": "gpt2 'training.client_optimizer={lr: 0.01, betas: [0.8, 0.95], weight_decay: 0.1}'",
    "training/cosine": "bert 'training.schedule={name: cosine, warmup: 0.25}' training.max_grad_norm=null",
    "training/linear": "gpt2 'training.schedule={name: linear, warmup: 0.5}' training.max_grad_norm=0.01",
    "training/autocast": "bert training.autocast=bfloat16",
    "training/keep-end": "gpt2 training.on_truncated=keep-end training.max_length=7",
    "training/drop": "bert training.on_truncated=drop training.max_length=10",
    "training/windows": "roberta training.max_length=9",
    "lora/dropout": "bert lora.dropout=0.2 lora.rslora=true lora.alpha=4",
    "lora/targets": "gpt2 'lora.targets=[c_attn, c_proj]' model.fused_gelu=false",
    "model/random": "gpt2 model.init=random 'model.config={n_embd: 16}' seed=5 data_seed=1",
    "data/dirichlet-label": "classes partition.scheme=dirichlet-label partition.alpha=0.8 partition.local_test=0.2",
    "data/dirichlet-quantity": "gpt2 partition.scheme=dirichlet-quantity partition.alpha=2.0",
    "data/column": "classes partition.scheme=column partition.column=owner partition.unmatched=deal",
    "data/explicit": "bert 'partition={scheme: explicit, shards: {a: [0-29], b: [30-59], c: [0-9], d: [10-39]}}'",
    "data/limit": "classes task_groups.tone.data.limit=30 task_groups.where.data.test_limit=5 holdout.duplicates=keep "
    "task_groups.tone.pooling=first evaluation.every=2 evaluation.batch_size=3 checkpoints.every=2",
}

COMMANDS = {
    "resume/stopped": ["stop 1 train bert.yaml training.rounds=3", "train --resume RUN"],
    "resume/stopped-gpt2": ["stop 2 train gpt2.yaml training.rounds=3 lora.dropout=0.1", "train --resume RUN"],
    "resume/stopped-u": [
        f"stop 1 train classes.yaml training.rounds=3 {NO_SERVER_LABELS} clustering.by=random aggregation.method=flora",
        "train --resume RUN",
    ],
    "resume/more": ["train bert.yaml training.rounds=1", "train --resume RUN training.rounds=3"],
    "warm-start": ["train bert.yaml", "train bert.yaml task_groups.tone.adapter=RUN/adapters/groups/tone"],
    "audit/labels-sent": [f"train classes.yaml {RECORD}", "audit RUN --json", "memory-report RUN --csv"],
    "audit/u-shaped": [f"train classes.yaml {RECORD} {NO_SERVER_LABELS} training.batch_size=8", "audit RUN"],
    "audit/dager": [
        f"train gpt2.yaml 'audit={{record: {{rounds: [2, 3, 4, 5, 6]}}}}' {UNIFORM} training.rounds=6 "
        "training.local_steps=1 training.client_optimizer.name=sgd training.max_grad_norm=null",
        "audit RUN --json",
    ],
    "audit/clusters": [
        f"train classes.yaml {RECORD} 'clustering={{k: 2, batches: 1}}' clients.a.count=9 clients.c.count=9 "
        "partition.local_test=0 training.batch_size=2",
        "audit RUN --json",
    ],
    "audit/noise": [f"train bert.yaml {RECORD} 'privacy.activations={{clip: 8, noise_multiplier: 0.1}}'", "audit RUN"],
    "audit/limit": ["train bert.yaml 'audit={record: {rounds: [2], clients: [a, c], limit: 20 KiB}}'", "audit RUN"],
    "audit/lira": [
        f"train classes.yaml {RECORD} training.local_steps=4 partition.local_test=0.5",
        "audit RUN --attack membership --lira 4",
    ],
    "audit/by-layer": ["audit --by-layer classes.yaml --output OUT --json"],
    "memory/bert": ["memory-report bert.yaml --json", "memory-report bert.yaml --csv", "memory-report bert.yaml"],
    "memory/gpt2": ["memory-report gpt2.yaml clients.a.checkpointing=true", "memory-report gpt2.yaml --json"],
    "memory/run": ["train gpt2.yaml", "memory-report RUN --json", "memory-report RUN"],
    "split-point/bert": [
        "split-point ./models/bert --max-length 32 --json",
        "split-point ./models/bert --max-length 32",
    ],
    "split-point/memory": ["split-point ./models/gpt2 --max-length 32 --memory '2 MiB' --checkpointing --json"],
    "split-point/known": ["split-point llama-3-8b --device phone-2gib --json", "split-point gpt2 --device phone-2gib"],
    "ranks": [
        f"ranks bert.yaml {PHONE} clients.a.device=phone clients.a.rank=auto --json",
        f"ranks gpt2.yaml {PHONE} clients.a.device=phone clients.a.rank=auto --uniform",
    ],
    "cluster": ["cluster classes.yaml --batches 4 --json", "cluster gpt2.yaml --k 2 --output OUT"],
    "verify": ["verify bert.yaml --json", "verify gpt2.yaml training.labels=client clients.a.split_layer=1"],
    "validate": [f"validate {name}.yaml" for name in ("bert", "gpt2", "qwen3")],
    "data": [f"data {name}.yaml" for name in ("classes", "distilbert", "qwen2")],
    "config": ["config show bert.yaml wire.activations.codec=int8"],
    "sweep": ["sweep bert.yaml seed=0,1 training.rounds=1"],
    "errors": ["train bert.yaml model.split_layer=9", "train bert.yaml trainin.rounds=1", "train nowhere.yaml"],
}
RAY = "engine.name=ray engine.hosts=2"
RAY_RUNS = {
    "ray/bert": f"bert {RAY}",
    "ray/mistral-u": f"mistral {RAY} training.labels=client training.server_update=per-client",
    "ray/privacy": f"classes {RAY} {UNIFORM} 'privacy.activations={{clip: 8.0, noise_multiplier: 0.2}}' {RECORD}",
    "ray/federated": f"bert {RAY} mode=federated aggregation.method=hetlora 'aggregation.options={{prune: 0.5}}'",
    "ray/dropouts": f"bert {RAY} faults.drop=0.4 training.cohort=0.5 clients.a.count=3 clients.c.dtype=bfloat16",
    "ray/clusters": f"classes {RAY} 'clustering={{k: 2, every: 1, batches: 2}}' training.server_update=sequential",
    "compile/bert": "bert engine.compile=true",
}


def commands(ray: bool) -> dict[str, list[str]]:
    """Command lines by the name of the run; with ``ray``, those that take long to start instead."""
    runs = RAY_RUNS if ray else RUNS
    trained = {name: ["train {}.yaml {}".format(*f"{line} ".split(" ", 1))] for name, line in runs.items()}
    return trained if ray else {**trained, **COMMANDS}
