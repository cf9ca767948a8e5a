"""Keys of faults, screening, deadlines and too few clients: what is wrong is told with line and key."""

import pytest
import yaml

from atlas_cli.config.load import load_config
from atlas_cli.errors import ConfigError

BASE = {
    "name": "toy",
    "model": {"name": "minilm"},
    "task_groups": {"g": {"task": "sequence-classification", "data": {"corpus": "sms-spam"}}},
    "clients": {"a": {"task_group": "g", "device": "phone-2gib"}, "b": {"task_group": "g", "count": 2}},
    "training": {"local_steps": 4},
}
DEVICES = {"clients": {name: {**client, "device": "phone-2gib"} for name, client in BASE["clients"].items()}}


def write(tmp_path, changes):
    config = {**BASE, **changes, "training": {**BASE["training"], **changes.get("training", {})}}
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"faults": {"drop": 1.0}}, "faults.drop", "less than 1"),
        ({"faults": {"drop": "0.3"}}, "faults.drop", "number"),
        ({"faults": {"dorp": 0.3}}, "faults.dorp", "did you mean drop"),
        ({"faults": {"slow": {"a": 0.5}}}, "faults.slow.a", "at least 1"),
        ({"faults": {"slow": {"c": 2.0}}}, "faults.slow.c", "no client has this name"),
        ({"faults": {"slow": {"b": 2.0}}}, "faults.slow.b", "give this client a device"),
        ({"faults": {"crash_at": {"b-3": {"round": 1}}}}, "faults.crash_at.b-3", "has this name; did you mean"),
        ({"faults": {"crash_at": {"a": {"round": 0}}}}, "faults.crash_at.a.round", "at least 1"),
        (
            {"faults": {"crash_at": {"a": {"round": 1, "step": 4}}}},
            "faults.crash_at.a.step",
            "steps of a round are 0 to 3",
        ),
        ({"faults": {"crash_at": {"a": {"round": 101}}}}, "faults.crash_at.a.round", "at most training.rounds, "),
        ({"faults": {"crash_at": {"a": {"step": 1}}}}, "faults.crash_at.a.round", "is missing"),
        ({"faults": {"drop": 0.3}, "mode": "centralized"}, "faults", "no clients that could fail"),
        ({"screen": {"max_norm_ratio": 0.0}}, "screen.max_norm_ratio", "greater than 0"),
        ({"screen": {"max_norm": 3.0}}, "screen.max_norm", "did you mean max_norm_ratio"),
        ({"training": {"deadline": "60"}}, "training.deadline", "has no unit"),
        ({"training": {"deadline": "60 s"}}, "training.deadline", "needs a device for every client, and b-1 has none"),
        ({**DEVICES, "training": {"deadline": "60 s"}, "mode": "federated"}, "training.deadline", "virtual clock"),
        ({"training": {"min_clients": 4}}, "training.min_clients", "a cohort has 3 clients here"),
        ({"training": {"min_clients": 3, "cohort": 0.5}}, "training.min_clients", "a cohort has 2 clients here"),
        ({"training": {"min_clients": 0}}, "training.min_clients", "at least 1"),
        ({"training": {"on_nonfinite": "drop"}}, "training.on_nonfinite", "drop-client"),
    ],
)
def test_bad_values(tmp_path, changes, key, says):
    path = write(tmp_path, changes)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    first = next(line for line in str(error.value).splitlines() if key in line)
    place, _, rest = first.partition(f": {key}")
    assert says in rest
    number = int(place.removeprefix(f"{path}:"))
    last = key.rpartition(".")[2] if says != "is missing" else "a"
    assert path.read_text(encoding="utf-8").splitlines()[number - 1].lstrip().startswith(f"{last}:")


def test_all_of_them_together(tmp_path):
    changes = {
        **DEVICES,
        "faults": {"drop": 0.3, "slow": {"b": 4.0}, "crash_at": {"b-2": {"round": 2, "step": 3}}},
        "screen": {"max_norm_ratio": 3.0},
        "training": {"deadline": "60 s", "min_clients": 2, "on_nonfinite": "drop-client"},
    }
    config = load_config(write(tmp_path, changes)).config
    assert config.faults.slow == {"b": 4.0} and config.faults.crash_at["b-2"].step == 3
