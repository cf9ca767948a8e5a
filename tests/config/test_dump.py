from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_cli.config.dump import dump_config, scalar, show_config
from atlas_cli.config.load import load_config
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.strict_yaml import parse

TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "no",
        "1e-4",
        "010",
        "12:30",
        "1_000",
        "0x1F",
        ".inf",
        "<<",
        "~",
        "",
        " x ",
        "a: b",
        "# c",
        "a\nb",
        "a #b",
        "-",
        "2024-01-01",
        "é ",
        "=",
        "'\"",
    ]
)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True) | st.sampled_from(
    ["no", "on", "1", "010", "1e5", "12"]
)
RANKS = st.integers(1, 10**20) | st.dictionaries(st.integers(0, 99), st.integers(1, 64), min_size=1, max_size=3)
POSITIVE = st.floats(min_value=1e-300, max_value=1e300)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def configs(draw: st.DrawFn) -> ExperimentConfig:
    groups = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    sources = draw(st.fixed_dictionaries({"files": TEXTS | st.lists(TEXTS, max_size=3)}, optional={"text": TEXTS}))
    group = {"task": "sequence-classification", "data": sources}
    classes = draw(st.none() | st.lists(TEXTS, min_size=2, max_size=3, unique=True))
    clients = {name: {"task_group": name, "rank": draw(st.none() | RANKS)} for name in groups}
    return ExperimentConfig.model_validate(
        {
            "name": draw(NAMES),
            "model": {"name": draw(TEXTS), "init": "random", "config": draw(st.dictionaries(TEXTS, PLAIN, max_size=3))},
            "lora": {
                "rank": draw(RANKS),
                "alpha": draw(st.floats(1e-300, 1e30)),
                "targets": draw(st.just("auto") | st.lists(TEXTS, max_size=3)),
            },
            "task_groups": {name: group | {"classes": classes} for name in groups},
            "clients": clients,
            "training": {
                "max_grad_norm": draw(st.none() | POSITIVE),
                "client_optimizer": {"lr": draw(POSITIVE), "betas": [0, draw(st.floats(0, 0.999))]},
            },
            "output": {"dir": draw(TEXTS)},
        }
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25, derandomize=True)
@given(configs())
def test_a_dumped_config_loads_to_an_equal_one(tmp_path, config: ExperimentConfig) -> None:
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    loaded = load_config(path)
    assert loaded.config == config
    path.write_text(show_config(loaded), encoding="utf-8")  # comments change nothing
    assert load_config(path).config == config


@settings(derandomize=True)
@given(TEXTS)
def test_a_dumped_text_is_text_for_any_yaml_reader(text: str) -> None:
    line = f"a: {scalar(text)}\n"
    assert parse(line, "x").data == {"a": text}
    assert yaml.safe_load(line) == {"a": text}


FILE = """\
name: example
model: {name: minilm, init: pretrained}
task_groups:
  q: {task: causal-lm, data: {files: [a.txt,
    b.txt]}}
clients:
  phones:
    task_group: q
    rank: {0: 8, 1: 16}
    count: 3
training: {rounds: 10, max_grad_norm: null,
  client_optimizer: {lr: 1e-4}}
"""


def test_show_names_the_origin_of_every_changed_value_and_of_no_other(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(FILE, encoding="utf-8")
    text = show_config(
        load_config("x.yaml", ["training.local_steps=3", "clients.phones.count=2", "server={rank: 4}", "seed=0"])
    )
    section, commented = [], {}
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        section[depth:] = [line.strip().split(":")[0]]
        if "  # " in line:
            commented[".".join(section)] = line.split("  # ")[1]
    assert commented == {
        "name": "x.yaml:1",
        "model.name": "x.yaml:2",
        "server.rank": "override",
        "task_groups.q.task": "x.yaml:4",
        "task_groups.q.data.files": "x.yaml:4",
        "clients.phones.task_group": "x.yaml:8",
        "clients.phones.rank": "x.yaml:9",
        "clients.phones.count": "override",
        "training.local_steps": "override",
        "training.client_optimizer.lr": "x.yaml:12",
        "training.max_grad_norm": "x.yaml:11",
    }
    assert "files: [a.txt, b.txt]  # x.yaml:4" in text and "max_grad_norm: null" in text
    assert not re.search(r"^seed: 0  #|rounds: 10  #|init: pretrained  #", text, re.MULTILINE)


def test_a_dump_says_every_default(tmp_path) -> None:
    (tmp_path / "x.yaml").write_text(FILE, encoding="utf-8")
    dumped = parse(dump_config(load_config(tmp_path / "x.yaml").config), "x").data
    assert dumped["training"]["server_optimizer"] == {
        "name": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "betas": [0.9, 0.999],
        "momentum": 0.0,
    }
    assert set(dumped) == set(ExperimentConfig.model_fields) - {"data_seed", "threads", "clustering", "audit"}


@pytest.mark.parametrize(
    ("text", "written"), [("gpt2", "gpt2"), ("no", "'no'"), ("1e-4", "'1e-4'"), ("010", "'010'"), ("a\nb", '"a\\nb"')]
)
def test_scalar_quotes_only_what_needs_it(text: str, written: str) -> None:
    assert scalar(text) == written
