"""Keys of engine: what is wrong is told with the key, and a cache where nothing would use it is refused."""

import pytest
import yaml

from atlas_cli.config.load import load_config
from atlas_cli.errors import ConfigError

BASE = {
    "name": "toy",
    "model": {"name": "minilm"},
    "task_groups": {"g": {"task": "sequence-classification", "data": {"corpus": "sms-spam"}}},
    "clients": {"a": {"task_group": "g"}},
}


def load(tmp_path, engine, **changes):
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({**BASE, "engine": engine, **changes}, sort_keys=False), encoding="utf-8")
    return load_config(path).config


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("512", "has no unit"),
        (512, "has no unit"),
        ("0 MiB", "above zero"),
        ("-1 MiB", "above zero"),
        ("512 mib", "did you mean MiB"),
        ("5 W", "not a unit"),
        ("lots", "a number and a unit"),
    ],
)
@pytest.mark.parametrize("key", ["prefix_cache", "offload"])
def test_bad_sizes(tmp_path, key, value, says):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, {key: value})
    said = str(error.value).replace(str(tmp_path), "")  # the folder is named after the case
    assert f"engine.{key}" in said and says in said


def test_off_by_default_and_only_for_clients_of_a_split(tmp_path):
    assert load(tmp_path, {}).engine.prefix_cache is None
    assert load(tmp_path, {"prefix_cache": "512 MiB"}).engine.prefix_cache == "512 MiB"
    assert load(tmp_path, {"prefix_cache": None}, mode="federated").engine.prefix_cache is None
    for mode in ("federated", "local-only", "centralized"):
        with pytest.raises(ConfigError, match=r"engine\.prefix_cache: only clients of mode: split-federated"):
            load(tmp_path, {"prefix_cache": "512 MiB"}, mode=mode)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"compile": True}, "replays what is not compiled, and engine.compile is true; set one of them false"),
        ({"fuse": "off"}, "replays passes that clients share, and with engine.fuse: off they share none"),
        ({"name": "ray"}, "is for clients in one process, and engine.name is ray; remove it"),
    ],
)
def test_cuda_graphs_beside_what_leaves_nothing_to_replay(tmp_path, other, says):
    assert load(tmp_path, {"cuda_graphs": True}).engine.cuda_graphs
    with pytest.raises(ConfigError) as error:
        load(tmp_path, {"cuda_graphs": True, **other})
    assert str(error.value).endswith(f"engine.cuda_graphs: {says}")
