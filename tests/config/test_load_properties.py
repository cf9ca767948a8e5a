from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_cli.config.load import load_config
from atlas_cli.errors import ConfigError

GOOD = """\
name: good
model:
  name: minilm
lora: {rank: 8}
task_groups:
  questions:
    task: sequence-classification
    data: {corpus: trec-questions}
clients:
  phone-1:
    task_group: questions
    rank: 4
  laptops: {task_group: questions, count: 2}
training:
  rounds: 3
"""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60, derandomize=True)
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes_give_a_config_error(tmp_path, raw: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError):
        load_config(path)


PATHS = [
    "name",
    "model",
    "model.name",
    "lora",
    "lora.rank",
    "lora.targets",
    "task_groups",
    "task_groups.questions",
    "task_groups.questions.data",
    "task_groups.questions.data.corpus",
    "clients",
    "clients.phone-1",
    "clients.laptops",
    "clients.phone-1.rank",
    "clients.laptops.count",
    "training",
    "training.client_optimizer.betas",
    "partition.shards",
    "[key]",
    "clients.phone-1.[key]",
    "model.config",
    "seed",
]
VALUES = st.recursive(
    st.sampled_from(["", "x", "0", "-1", "7", "1.5", "true", "'[key]'", "int", "~", "questions"]),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda v: f"[{', '.join(v)}]")
        | st.dictionaries(
            st.sampled_from(["a", "0", "1", "'[key]'", "task_group", "dict[int,int]"]), inner, max_size=2
        ).map(lambda v: "{" + ", ".join(f"{k}: {w}" for k, w in v.items()) + "}")
    ),
    max_leaves=4,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200, derandomize=True
)
@given(st.lists(st.tuples(st.sampled_from(PATHS), VALUES), min_size=1, max_size=3))
def test_any_value_anywhere_loads_or_is_a_config_error(tmp_path, changes: list[tuple[str, str]]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(GOOD, encoding="utf-8")
    try:
        load_config(path, [f"{key}={value}" for key, value in changes])
    except ConfigError as error:
        assert all(line.startswith((str(path), "command line")) for line in str(error).splitlines())
