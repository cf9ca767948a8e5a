import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from atlas_cli.errors import ResourceError
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.schemas import SCHEMAS

EXAMPLES = {
    "metrics.jsonl": {
        "round": 0,
        "task_group": "spam",
        "train_loss": None,
        "test": {"accuracy": 0.5, "loss": None},
        "examples": 0,
        "tokens": 0,
        "bytes_up": 0,
        "bytes_down": 10,
        "seconds": 1.5,
        "samples_per_second": None,
        "aggregation_error": None,
        "aggregation_truncation": None,
        "aggregation_cross_term": 0.1,
        "aggregation_by_layer": {"h.0": {"total": 0.2, "truncation": None, "cross_term": 0.1}},
        "server_lr": None,
        "client_lr": None,
        "simulated_seconds": 12.5,
        "simulated_joules": None,
        "epsilon": {"updates": 2.5, "activations": "infinite"},
        "delta": 1e-5,
        "participants": ["phone-1"],
        "dropped": {"phone-2": "never answered"},
    },
    "clients.jsonl": {
        "round": 1,
        "client": "phone-1",
        "task_group": "spam",
        "cluster": None,
        "participated": True,
        "train_loss": 0.5,
        "steps": 8,
        "examples": 64,
        "tokens": 900,
        "weight": 0.25,
        "bytes_up": 5,
        "bytes_down": 6,
        "held_sha256": "ab" * 32,
        "delivered_sha256": None,
        "local_test": None,
        "simulated": {"compute": 1.5, "joules": None},
    },
    "messages.jsonl": {
        "round": 1,
        "client": "phone-1",
        "kind": "activations",
        "direction": "up",
        "messages": 8,
        "bytes": 500,
        "payload_bytes": 400,
        "closed_form_bytes": None,
    },
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_records_survive_the_round_trip(tmp_path, name):
    run = RunDirectory.create(tmp_path, "example", 0)
    run.append(name, [EXAMPLES[name]] * 2)
    read = run.read_lines(name)
    assert read == [EXAMPLES[name]] * 2
    assert list(read[0]) == list(EXAMPLES[name])


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_record_without_a_field_or_with_one_more_is_damaged(tmp_path, name):
    example = EXAMPLES[name]
    for key in example:
        with pytest.raises(ValidationError, match=key):
            SCHEMAS[name].model_validate({k: v for k, v in example.items() if k != key})
    run = RunDirectory.create(tmp_path, "example", 0)
    run.append(name, [example, example | {"extra": 1}])
    with pytest.raises(ResourceError, match=rf"{name}:2 is damaged: extra: "):
        run.read_lines(name)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("metrics.jsonl", {"round": -1}),
        ("metrics.jsonl", {"round": "1"}),
        ("metrics.jsonl", {"train_loss": float("nan")}),
        ("clients.jsonl", {"held_sha256": "abc"}),
        ("clients.jsonl", {"participated": 1}),
        ("messages.jsonl", {"kind": "gossip"}),
        ("messages.jsonl", {"direction": "sideways"}),
        ("messages.jsonl", {"bytes": 1.5}),
    ],
)
def test_wrong_values_are_refused(name, change):
    with pytest.raises(ValidationError):
        SCHEMAS[name].model_validate(EXAMPLES[name] | change)


def test_metrics_keep_their_order():
    record = EXAMPLES["metrics.jsonl"] | {"test": {"z": 1.0, "a": 2.0}}
    read = SCHEMAS["metrics.jsonl"].model_validate_json(json.dumps(record)).model_dump()
    assert list(read["test"]) == ["z", "a"]


def test_reports_and_run_directories_do_not_need_torch():
    modules = "atlas_cli.runs.directory, atlas_cli.runs.manifest, atlas_cli.hashing, atlas_cli.cli.memory_report"
    reports = ", ".join(f"atlas_cli.reports.{name}" for name in ("page.report", "progress", "tables", "memory"))
    code = f"import sys, {modules}, {reports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
