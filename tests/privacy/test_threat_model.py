"""The tables of docs/concepts/threat-model.md are what small runs send: every kind of message, and no other."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from atlas_cli import discovery
from atlas_cli.wire.messages import TYPES, Adapters, NamedTensors

PAGE = (Path(__file__).parents[2] / "docs" / "concepts" / "threat-model.md").read_text(encoding="utf-8")
SHORT = {"rounds": 1, "local_steps": 1, "batch_size": 4}
NOT_RUN = {("base-total", "down"), ("tokens", "down"), ("beams", "up")}  # the page says so
WHOLE_NUMBERS = {"attention_mask", "examples", "lengths", "rows", "count"}  # and labels


def table(title):
    """The rows of the table under a heading, cells by column."""
    lines = PAGE[PAGE.index(f"\n## {title}\n") :].split("\n\n|", 1)[1].split("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def named(cell):
    return set(cell.split("`")[1::2])


def keys(cell):
    return yaml.safe_load(cell.strip("`"))


MESSAGES = {
    (row["kind"].strip("`"), row["direction"]): named(row["tensors"]) for row in table("What each message tells")
}
SETTINGS = {row["setting"]: row for row in table("Which messages there are")}
MECHANISMS = {row["mechanism"]: row for row in table("What a mechanism changes")}


class Kept:
    """A recording that keeps messages in memory."""

    def __init__(self):
        self.messages = []

    def watch(self, number):
        return self._keep

    def _keep(self, message):
        # as it is now: tensors of a party in this process may be trained in place later
        copies = {name: tensor.clone() for name, tensor in message.tensors.items()}
        self.messages.append(type(message).of(message.client, copies))


@pytest.fixture
def sent(make_federation, train_quietly):
    """``sent(changes)``: all messages of a small run, with keys of ``clients.NAME`` for each client."""

    def run(changes):
        changes = {**changes, "training": {**SHORT, **changes.get("training", {})}}
        if "clients" in changes:
            changes["clients"] = dict.fromkeys("abc", changes["clients"]["NAME"])
        federation = make_federation(**changes)
        federation.recording = kept = Kept()
        train_quietly(federation)
        return kept.messages

    return run


def names(message):
    """Tensors as the page names them: those of layers by their last part."""
    if not isinstance(message, NamedTensors):
        return set(message.tensors)
    return {
        "head" if n.startswith("head.") else n.split(".")[0] if n.startswith("extra.") else n.split(".")[-1]
        for n in message.tensors
    }


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_sends_the_messages_of_its_row(setting, sent):
    row = SETTINGS[setting]
    messages = sent(keys(row["keys"]))
    for way in ("up", "down"):
        assert {m.kind for m in messages if m.direction == way} == named(row[way])
    for message in messages:
        if message.kind != "base-weights":
            assert names(message) <= MESSAGES[message.kind, message.direction]
    labelled = [m for m in messages if m.kind == "activations" and "labels" in m.tensors]
    assert {"yes": len(labelled) == len([m for m in messages if m.kind == "activations"]) > 0, "no": not labelled}[
        row["labels are sent"]
    ]
    if not labelled:  # nor is one sent in disguise: whole numbers are masks, places and counts
        whole = {
            n for m in messages if m.kind != "base-weights" for n, t in m.tensors.items() if not t.is_floating_point()
        }
        assert whole <= WHOLE_NUMBERS


def test_every_kind_of_message_is_on_the_page_and_in_a_setting():
    assert MESSAGES.keys() == TYPES.keys()
    of_settings = {(kind, way) for row in SETTINGS.values() for way in ("up", "down") for kind in named(row[way])}
    assert of_settings | NOT_RUN == TYPES.keys() and not of_settings & NOT_RUN
    for each, tensors in MESSAGES.items():
        if not issubclass(TYPES[each], NamedTensors):
            own = {field.name for field in fields(TYPES[each])} - {"client", "compact", "parts", "lost"}
            assert tensors == own, each
        elif issubclass(TYPES[each], Adapters):
            assert tensors == {"lora_A", "lora_B", "extra"}


def test_every_mechanism_is_on_the_page():
    on_page = {name.split("`")[1].replace("_", "-") for name in MECHANISMS}
    assert on_page == set(discovery.own_names("privacy.mechanisms"))


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_mechanism_changes_first_what_its_row_says(mechanism, sent):
    row = MECHANISMS[mechanism]
    beside, privacy = keys(row["keys beside it"]), keys(row["keys"])
    runs = [
        [m for m in sent({**beside, **more}) if m.client == "a" and m.kind != "base-weights"]
        for more in ({}, {"privacy": privacy})
    ]
    first = next(one for one, other in zip(*runs, strict=False) if not same(one, other))
    assert f"`{first.kind}` {first.direction}" == row["changes first"]


def same(one, other):
    if (type(one), one.tensors.keys()) != (type(other), other.tensors.keys()):
        return False
    return all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
