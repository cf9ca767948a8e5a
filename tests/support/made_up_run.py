"""A made-up run with figures that are easy to check by hand."""

from datetime import datetime

from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.manifest import end_manifest, start_manifest

GROUPS = {"questions": "accuracy", "spam": "accuracy", "prose": "perplexity"}
VALUES = {
    "questions": [0.167, 0.5, 0.75, 0.7],
    "spam": [0.85, 0.9, 0.95, 0.97],
    "prose": [1234.5, 80.0, 40.0, 41.0],
}
HASH = "0" * 64


def counts_of(group, round_):
    """Of 200 test examples, 120 are of class a and 80 of class b, and so are the right ones and the predicted."""
    if GROUPS[group] != "accuracy":
        return {}
    right = round(200 * VALUES[group][round_])
    a = {"labels": 120, "predicted": 120, "right": round(right * 0.6)}
    b = {"labels": 80, "predicted": 80, "right": right - round(right * 0.6)}
    return {"test_trials": {"accuracy": 200}, "test_by_class": {"a": a, "b": b}}


def metrics_record(group, round_, **changes):
    trained = round_ > 0
    record = {
        "round": round_,
        "task_group": group,
        "train_loss": 2.0 / (round_ + 1) if trained else None,
        "test": {GROUPS[group]: VALUES[group][round_], "loss": 3.0},
        "metric": GROUPS[group],
        "better": "lower" if group == "prose" else "higher",
        "models": 1,
        **counts_of(group, round_),
        "examples": 800 if trained else 0,
        "tokens": 16000 if trained else 0,
        "bytes_up": 1_200_000 if trained else 0,
        "bytes_down": 1_100_000 if trained else 45_000_000,
        "seconds": 5.0,
        "samples_per_second": 400.0 if trained else None,
        "aggregation_error": 0.2 if trained else None,
        "aggregation_truncation": 0.1 if trained else None,
        "aggregation_cross_term": 0.15 if trained else None,
        "aggregation_by_layer": {
            f"layer.{i}.query": {"total": 0.2 + i / 10, "truncation": 0.1, "cross_term": 0.15} for i in range(2)
        }
        if trained
        else None,
        "server_lr": 1e-3 if trained else None,
        "client_lr": 1e-3 if trained else None,
        "simulated_seconds": None,
        "simulated_joules": None,
        "epsilon": {"updates": "infinite", "activations": "infinite", "labels": "infinite", "fingerprints": 0.0},
        "delta": 1e-5,
        "participants": [c for c, g in CLIENTS.items() if g == group] if trained else [],
        "dropped": {},
    }
    return record | changes


def client_record(client, group, round_, **changes):
    record = {
        "round": round_,
        "client": client,
        "task_group": group,
        "cluster": None,
        "participated": True,
        "train_loss": 1.5 / max(round_, 1),
        "steps": 8,
        "examples": 64,
        "tokens": 1280,
        "weight": 0.5,
        "bytes_up": 600_000,
        "bytes_down": 550_000,
        "held_sha256": HASH,
        "delivered_sha256": HASH,
        "local_test": {GROUPS[group]: 0.8},
        "simulated": None,
    }
    return record | changes


def first_record(client, group):
    """Before training: what labels a client has, where its task has classes."""
    labels = {"labels": {"a": 30, "b": 10}} if GROUPS[group] == "accuracy" else {}
    nothing = {"participated": False, "train_loss": None, "steps": 0, "examples": 0, "tokens": 0, "weight": None}
    return client_record(client, group, 0, **nothing, **labels, local_test=None)


def message_records(client, round_):
    if round_ == 0:
        sizes = {("base-weights", "down"): 15_000_000}
    else:
        sizes = {
            ("activations", "up"): 500_000,
            ("labels", "up"): 2_000,
            ("adapters", "up"): 98_000,
            ("gradients", "down"): 450_000,
            ("adapters", "down"): 98_000,
        }
    return [
        {
            "round": round_,
            "client": client,
            "kind": kind,
            "direction": direction,
            "messages": 8,
            "bytes": n,
            "payload_bytes": n - 800,
            "closed_form_bytes": n - 800,
        }
        for (kind, direction), n in sizes.items()
    ]


def holder(adapters=50_000, activations=20_000_000, **more):
    parts = {
        "frozen_weights": 60_000_000,
        "adapters": adapters,
        "heads": 0,
        "gradients": adapters,
        "optimizer": 2 * adapters,
        "saved_activations": activations,
        "cut_buffers": 500_000,
    } | more
    return parts | {"total": sum(parts.values()), "batch": {"size": 8, "tokens": 160}}


def memory_record(clients):
    whole = {"weights": 90_000_000, "gradients": 90_000_000, "optimizer": 180_000_000, "saved_activations": 45_000_000}
    lora = {"weights": 90_000_000, "adapters": 100_000, "gradients": 100_000, "optimizer": 200_000}
    lora["saved_activations"] = 40_000_000
    return {
        "unit": "bytes",
        "measured_in_round": 1,
        "clients": clients,
        "server": holder(heads=12_000),
        "references": {
            "full_fine_tuning": whole | {"adapters": 0, "total": sum(whole.values()), "how": "computed from shapes"},
            "unsplit_lora": lora | {"total": sum(lora.values()), "how": "measured on one batch"},
        },
        "not_measured": [],
    }


CONFIG = {
    "name": "example",
    "seed": 3,
    "lora": {"rank": 8},
    "clients": {
        "phone-1": {"task_group": "questions", "rank": 4, "count": 1},
        "laptop": {"task_group": "spam", "rank": {0: 8, 1: 16}, "count": 2},
        "desk": {"task_group": "prose", "rank": None, "count": 1},
    },
}
CLIENTS = {"phone-1": "questions", "laptop-1": "spam", "laptop-2": "spam", "desk": "prose"}


def build(base, name="example", clients=CLIENTS, verify=None):
    run = RunDirectory.create(base / "runs", "example", 3, datetime(2025, 1, 31, 12, 30, 5))
    data = {g: {"origin": "packaged", "sha256": HASH, "train": 800, "test": 200, "classes": ["a", "b"]} for g in GROUPS}
    model = {"name": "minilm", "sha256": HASH, "n_parameters": 22_713_216, "init": "pretrained"}
    config = CONFIG | {"name": name}
    manifest = start_manifest(config, ["atlas", "train", "example.yaml"], 3, "cpu", 1, model, data)
    for round_ in range(4):
        run.append("metrics.jsonl", [metrics_record(group, round_) for group in GROUPS])
        for client, group in clients.items():
            if round_ == 0:
                run.append("clients.jsonl", [first_record(client, group)])
            run.append("messages.jsonl", message_records(client, round_))
            if round_:
                run.append("clients.jsonl", [client_record(client, group, round_)])
    run.write_json("memory.json", memory_record({c: holder(50_000 * (i % 4 + 1)) for i, c in enumerate(clients)}))
    ended = end_manifest(manifest, "finished") | {"process_rss_peak": 700_000_000}
    run.write_json("manifest.json", ended | ({"verify": verify} if verify else {}))
    return run
