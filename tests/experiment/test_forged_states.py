"""States whose hashes are right and whose content is not: refused in one line that names the field, or restored as they
are."""

import random

import pytest
import torch

from atlas_cli.errors import ResourceError
from atlas_cli.experiment.run_state import RunState
from atlas_cli.experiment.saved_clients import ClientRecord
from atlas_cli.federation.build import build
from atlas_cli.hashing import sha256_tensors

CHANGES = {
    "adapters alone": {"training": {"rounds": 1, "local_steps": 1}},
    "a changed base, moments of sgd": {
        "aggregation": {"method": "fedex"},
        "training": {
            "rounds": 2, "local_steps": 1, "cohort": 0.6,
            "client_optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
        },
    },
    "clusters": {
        "clustering": {"k": 2, "every": 1, "batches": 1},
        "training": {"rounds": 2, "local_steps": 1, "labels": "client"},
    },
    "best rounds": {"training": {"rounds": 1, "local_steps": 1}, "holdout": {"validation": 6}},
}  # fmt: skip
VALUES = [None, True, -1, 0, 1, 10**30, 1.5, float("nan"), "", "x" * 99, "0" * 64, [], {}, [[]], {"g": 1}, [0] * 99]


def places(value, path=()):
    """Every place in a JSON value, itself included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def with_value(value, path, new):
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = with_value(value[path[0]], path[1:], new)
    return copied


def renamed(tensors, state):
    """Contents under the hashes that they have now, as a forger would leave them."""
    contents = {}
    for name, value in tensors.items():
        if name.startswith("clients/") and name.count("/") >= 3:
            _, part, sha256, own = name.split("/", 3)
            contents.setdefault((part, sha256), {})[own] = value
    new = {where: sha256_tensors(content) for where, content in contents.items()}
    tensors = {n: v for n, v in tensors.items() if not n.startswith("clients/")}
    for (part, old), content in contents.items():
        tensors |= {f"clients/{part}/{new[part, old]}/{n}": v for n, v in content.items()}
    records = [
        [new.get(each, each[1]) for each in zip(ClientRecord._fields, record, strict=True)]
        for record in state["clients"]["records"]
    ]
    return tensors, {**state, "clients": {**state["clients"], "records": records}}


def forge_state(draw, tensors, state):
    path = draw.choice(list(places(state)))
    return tensors, with_value(state, path, draw.choice(VALUES))


def forge_tensor(draw, tensors, state):
    name = draw.choice(sorted(tensors))
    value, tensors = tensors[name], dict(tensors)
    kind = draw.choice(["shape", "flat", "type", "nan", "inf", "gone", "renamed", "double", "negative", "empty"])
    if kind in ("gone", "renamed"):
        del tensors[name]
        if kind == "renamed":
            others = [f"{name}x", name.replace("0", "7"), "x/y", "clients/", f"aggregator/change/g/total/{name}"]
            tensors[draw.choice(others)] = value
    else:
        tensors[name] = {
            "shape": value.repeat(2, *[1] * (value.dim() - 1)) if value.dim() else value.repeat(2),
            "flat": value.flatten()[0].clone(),
            "type": value.to(draw.choice([torch.int64, torch.float16, torch.bool, torch.complex64])),
            "nan": torch.full_like(value, float("nan")),
            "inf": torch.full_like(value, float("inf")),
            "double": value.double(),
            "negative": -value.abs() - 1,
            "empty": value[:0].clone() if value.dim() else torch.zeros(0),
        }[kind]
    return renamed(tensors, state) if draw.random() < 0.7 else (tensors, state)


@pytest.mark.slow
@pytest.mark.parametrize("case", CHANGES)
def test_every_forged_state_is_refused_by_name_or_is_what_is_restored(make_config, train_quietly, case):
    config = make_config("bert", **CHANGES[case])
    trained = build(config)
    owner = RunState(trained)
    train_quietly(trained, best=owner.best)
    tensors, state = owner.capture()
    draw, refused, fresh = random.Random(0), 0, build(config)
    for _ in range(80):
        forged = draw.choice([forge_state, forge_tensor, forge_tensor])(draw, tensors, state)
        owner = RunState(fresh)
        try:
            owner.restore(*forged, "checkpoint round-000001")
        except ResourceError as error:
            refused += 1
            message = str(error)
            assert message.startswith("checkpoint round-000001 is not of this experiment: state."), message
            assert "\n" not in message and len(message) < 400
            if fresh.aggregator.groups.keys() != trained.aggregator.groups.keys():
                fresh = build(config)  # it had been grouped anew
            continue
        again = owner.capture()
        assert again[1] == forged[1]
        assert again[0].keys() == forged[0].keys()
        assert all(torch.equal(value, forged[0][name]) for name, value in again[0].items())
    assert refused > 50
    owner = RunState(fresh)
    owner.restore(tensors, state)
    again = owner.capture()
    assert again[1] == state and all(torch.equal(value, tensors[name]) for name, value in again[0].items())
