from __future__ import annotations

import pytest

from atlas_cli.config.overrides import apply_overrides
from atlas_cli.errors import ConfigError


def data() -> dict:
    return {
        "training": {"rounds": 10, "betas": [0.9, 0.99]},
        "lora": None,
        "clients": {"phone-1": {"rank": 4}, "v1.2": {"rank": {0: 8}}, "v1": {"rank": 1}, "v1.2.b": {}},
    }


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.rounds=3", ("training", "rounds"), 3),
        ("training.rounds = 3", ("training", "rounds"), 3),
        ("clients.phone-1.rank={0: 8, 1: 16}", ("clients", "phone-1", "rank"), {0: 8, 1: 16}),
        ("training.lr=1e-4", ("training", "lr"), 1e-4),
        ("training.mode=no", ("training", "mode"), "no"),
        ("training.limit=", ("training", "limit"), None),
        ("training.filter=a=b", ("training", "filter"), "a=b"),
        ("lora.targets=[q_proj, v_proj]", ("lora", "targets"), ["q_proj", "v_proj"]),
        ("optimizer.client.lr=1", ("optimizer", "client", "lr"), 1),
        ("clients.v1.2.rank=3", ("clients", "v1.2", "rank"), 3),
        ("clients.v1.2.b.rank=3", ("clients", "v1.2.b", "rank"), 3),
        ("clients.v1.rank=3", ("clients", "v1", "rank"), 3),
        ("clients.v1.2.rank.0=3", ("clients", "v1.2", "rank", 0), 3),
        ("clients.v1.2.rank.1=3", ("clients", "v1.2", "rank", 1), 3),
        ("clients.new={rank: 2}", ("clients", "new"), {"rank": 2}),
        ("training.betas.1=0.95", ("training", "betas", 1), 0.95),
        ("training={rounds: 1}", ("training",), {"rounds": 1}),
    ],
)
def test_an_override_sets_one_value(override: str, path: tuple, value: object) -> None:
    changed = data()
    paths = apply_overrides(changed, [override])
    assert paths[0] == path
    for part in path:
        changed = changed[part]
    assert changed == value and type(changed) is type(value)


def test_nothing_else_changes_and_the_last_one_wins() -> None:
    changed = data()
    assert apply_overrides(changed, ["training.rounds=3", "training.rounds=5"]) == [("training", "rounds")] * 2
    expected = data()
    expected["training"]["rounds"] = 5
    assert changed == expected


def test_paths_inside_values_are_named() -> None:
    assert apply_overrides(data(), ["lora={rank: 2, targets: [q]}"]) == [
        ("lora",),
        ("lora", "rank"),
        ("lora", "targets"),
        ("lora", "targets", 0),
    ]


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("foo", "command line: 'foo' is not an override; write key=value, e.g. training.rounds=3"),
        ("=3", "command line: '=3' is not an override; write key=value, e.g. training.rounds=3"),
        ("a..b=3", "command line: 'a..b=3' is not an override; write key=value, e.g. training.rounds=3"),
        (".=3", "command line: '.=3' is not an override; write key=value, e.g. training.rounds=3"),
        ("training.rounds=010", "command line: training.rounds: 010 has a leading zero; write 10"),
        ("name=010", 'command line: name: 010 has a leading zero; write "010"'),
        ("anything=010", 'command line: anything: 010 has a leading zero; write 10 or "010"'),
        (
            "a=[1",
            "command line: a: not valid YAML: '[' in column 1 is not closed before the end of the text; close it with "
            "']', and put ',' between entries",
        ),
        ("training.rounds.x=1", "command line: training.rounds: has no key x; set it as a whole: training.rounds=..."),
        ("training.betas.2=1", "command line: training.betas: has no key 2; set it as a whole: training.betas=..."),
        ("training.betas.x=1", "command line: training.betas: has no key x; set it as a whole: training.betas=..."),
        (
            "clients.phnoe-1.rank=3",
            "command line: clients.phnoe-1: is not in the config; did you mean phone-1? (to add one: "
            "clients.NAME={...})",
        ),
    ],
)
def test_bad_overrides(override: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(data(), [override])
    assert str(caught.value) == error
