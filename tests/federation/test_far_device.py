"""A device that is not the CPU and has no float64 (MPS): nothing is mixed up, and figures are those of the CPU."""

from contextlib import contextmanager

import pytest
import yaml
from support.far_device import far_device
from support.toy_runs import toy_config, write_data

from atlas_cli import double
from atlas_cli.cli import main
from atlas_cli.federation import loaded_experiment
from atlas_cli.runs.directory import RunDirectory

SMALL = {"training": {"rounds": 1, "local_steps": 1, "batch_size": 2}, "evaluation": {"batch_size": 64}}
FEW = {"a": {"task_group": "g", "rank": 4}, "b": {"task_group": "g", "rank": 2}}
NOISE, EVEN = {"clip": 1.0, "noise_multiplier": 0.5}, {"method": "zero-pad", "weights": "uniform"}
AT_CLIENT = {**SMALL["training"], "labels": "client"}
QUICK = {
    "updates": {"aggregation": EVEN, "privacy": {"updates": {**NOISE, "where": "server"}}},
    "examples": {"aggregation": EVEN, "privacy": {"examples": NOISE}, "training": AT_CLIENT},
}
CASES = {
    method: {"clients": FEW, "aggregation": {"method": method}}
    for method in ("fedex", "lora-fair", "scaffold")  # merges of all methods are made at one place, on the CPU
} | {
    "ranks by gradients": {
        "task": "regression",
        "clients": {"a": {"task_group": "g", "rank": "auto", "device": "phone"}},
        "devices": {"phone": {"memory": "1 GiB", "uplink": "1 Mbit/s"}},
        "aggregation": {"method": "flora"},
    },
    "other cuts": {"clients": {**FEW, "c": {"task_group": "g", "split_layer": 1}}, "server": {"rank": 2}},
    "rows of the embedding": {"clients": {**FEW, "a": {**FEW["a"], "embedding": "rows"}}},
    "away": {"clients": FEW, "engine": {"offload": "1 KiB"}, "aggregation": {"method": "flora"}},
    "question-answering": {"task": "question-answering", "clients": FEW, "mode": "federated"},
    "noise of clients": {
        "clients": FEW,
        "aggregation": EVEN,
        "privacy": {"updates": {**NOISE, "where": "client"}, "activations": NOISE, "labels": {"epsilon": 1.0}},
    },
}


@pytest.fixture
def far(monkeypatch):
    """Inside ``far()`` runs compute on the other device."""

    @contextmanager
    def there():
        with far_device() as device, monkeypatch.context() as patch:
            patch.setattr(double, "WITHOUT", {device.type})
            patch.setattr(loaded_experiment, "computing_device", lambda config: device)
            yield

    return there


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK)
def test_noise(make_federation, train_quietly, far, case):
    changes = {**SMALL, **QUICK[case]}
    here = train_quietly(make_federation(**changes)).metrics
    with far():
        there = train_quietly(make_federation(**changes)).metrics
    assert [line["test"]["loss"] for line in there] == pytest.approx([line["test"]["loss"] for line in here], abs=1e-5)
    assert there[1]["norms"][case] == pytest.approx(here[1]["norms"][case], rel=1e-4)


def losses(model_folder, tmp_path, resumed, **changes):
    """Of two rounds, or of one in a run that is resumed for the second."""
    made = toy_config(model_folder, tmp_path, tmp_path / "runs", **{**SMALL, **changes})
    made["clients"] = changes["clients"]
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(made), encoding="utf-8")
    rounds = [] if resumed else ["training.rounds=2"]
    assert main(["train", "--debug", str(tmp_path / "toy.yaml"), *rounds]) == 0
    newest = max((tmp_path / "runs").iterdir(), key=lambda path: path.stat().st_ctime_ns)
    if resumed:
        assert main(["train", "--debug", "--resume", str(newest), "training.rounds=2"]) == 0
    return [line["test"]["loss"] for line in RunDirectory(newest).read_lines("metrics.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_there_is_a_run_on_the_cpu(model_folder, tmp_path, far, case):
    """One that is resumed there, and one without a stop here."""
    write_data(tmp_path)
    here = losses(model_folder, tmp_path, False, **CASES[case])
    with far():
        assert losses(model_folder, tmp_path, True, **CASES[case]) == pytest.approx(here, abs=1e-5)
