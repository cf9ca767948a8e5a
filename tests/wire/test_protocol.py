from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from atlas_cli.data.collate import batch_indices
from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.experiment.api.one_round import create_message
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.lost import Lost
from atlas_cli.wire.messages import TYPES, Activations, AdapterUpdate, Delivery, Gradients, NamedTensors
from atlas_cli.wire.serialized import DTYPES, NAMES, compact_size, from_bytes, serialized_size, to_bytes

names = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
awkward = st.sampled_from(['"', "\\", "a\nb", "\x00", "\x7f", "é", "\u2028", "\U0001f600", "h.0.attn.c_attn.lora_A"])
shapes = st.lists(st.integers(0, 5), max_size=4)
contents = st.dictionaries(names | awkward, st.tuples(st.sampled_from(list(DTYPES)), shapes), max_size=6)


@pytest.mark.slow
@given(contents)
@settings(max_examples=300, deadline=None)
def test_size_is_that_of_the_safetensors_file(content):
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in content.items()}
    assert serialized_size(tensors) == len(save(tensors))


@pytest.mark.slow
@given(content=contents | st.dictionaries(st.sampled_from(NAMES), st.tuples(st.sampled_from(list(DTYPES)), shapes)))
@settings(max_examples=200, deadline=None)
def test_tensors_come_back_from_a_compact_header_of_the_size_that_is_counted(content):
    tensors = {name: torch.ones(shape).to(dtype) for name, (dtype, shape) in content.items()}
    data = to_bytes(tensors)
    assert len(data) == compact_size({name: tensor.to("meta") for name, tensor in tensors.items()})
    found = from_bytes(data)
    assert found.keys() == tensors.keys()
    assert all(found[name].equal(each) and found[name].dtype == each.dtype for name, each in tensors.items())


def test_a_compact_header_is_for_messages_of_which_the_other_is_a_large_part():
    small, large = {"gradients": torch.zeros(1, 300, 1)}, {"gradients": torch.zeros(1, 100_000, 1)}
    assert to_bytes(small)[0] == 255 and len(to_bytes(small)) == 1200 + 9
    assert to_bytes(large) == save(large) and compact_size(large) == serialized_size(large)
    assert Gradients("a", **small, compact=True).bytes == 1209 and Gradients("a", **small).bytes == len(save(small))


def test_size_needs_no_data():
    shape = (4, 7, 32)
    assert serialized_size({"x": torch.empty(shape, device="meta")}) == len(save({"x": torch.zeros(shape)}))


def test_message_bytes_are_payload_plus_header():
    message = Gradients("a", torch.zeros(2, 3, 4))
    assert message.payload_bytes == 96
    assert message.bytes == len(save(message.tensors)) > 96


def test_closed_forms_by_hand():
    assert Activations.closed_form(batch=4, tokens=10, token_bytes=32 * 4, label_bytes=32) == 4 * 10 * 32 * 4 + 40 + 32
    assert Delivery.closed_form({"q": 4, "v": 2}, {"q": (32, 32), "v": (32, 96)}) == 4 * (4 * 64 + 2 * 128)


def test_tensors_that_a_method_sends_besides_adapters_have_a_place():
    sent = AdapterUpdate("a", {"q.lora_A": torch.ones(2, 3)}, {"control/q.lora_A": torch.zeros(2, 3)})
    assert sent.payload_bytes == AdapterUpdate.closed_form({"q": 2}, {"q": (3, 5)}, ("A",), extra_elements=6) == 48
    again = AdapterUpdate.of("a", sent.tensors)
    assert again.named.keys() == {"q.lora_A"} and again.extra.keys() == {"control/q.lora_A"}


def test_a_message_is_read_back_from_its_tensors_and_from_no_others():
    for of in TYPES.values():
        names = ("gradients", "count") if of.kind == "feature-gradients" else (of.kind,)
        tensors = {name: torch.zeros(1, 2, 3) for name in names}
        assert of.of("a", tensors).tensors.keys() == tensors.keys()
        if not issubclass(of, NamedTensors):
            with pytest.raises(TypeError, match="stowaway"):
                of.of("a", {**tensors, "stowaway": torch.zeros(1)})


def test_a_message_of_the_python_interface_is_one_that_there_is():
    assert create_message(3, "adapters", {"q.lora_A": torch.zeros(2, 3)}).client == "3"
    with pytest.raises(ConfigError, match=r"no message is of kind 'gradients' up; there are: .*gradients down"):
        create_message("a", "gradients", {"gradients": torch.zeros(1, 2, 3)})
    with pytest.raises(ConfigError, match=r"not the tensors of a message of kind 'gradients'.*weights"):
        create_message("a", "gradients", {"weights": torch.zeros(1, 2, 3)}, "down")


def test_ledger_adds_up_by_client_kind_and_direction():
    ledger = Ledger()
    up = AdapterUpdate("a", {"x": torch.zeros(8)})
    for message in (up, up, AdapterUpdate("b", {"x": torch.zeros(8)})):
        ledger.count(message, 32)
    assert ledger.entries["a", "adapters", "up"].messages == 2
    assert ledger.total("up", ["a"]) == 2 * up.bytes
    assert ledger.total("up", ["a", "b"]) == 3 * up.bytes
    assert ledger.total("down", ["a", "b"]) == 0
    assert ledger.mismatches() == []
    assert ledger.records(3)[0] == {
        "round": 3,
        "client": "a",
        "kind": "adapters",
        "direction": "up",
        "messages": 2,
        "bytes": 2 * up.bytes,
        "payload_bytes": 64,
        "closed_form_bytes": 64,
    }


def test_ledger_names_what_differs_from_the_closed_form():
    ledger = Ledger()
    ledger.count(AdapterUpdate("a", {"x": torch.zeros(8)}), 32)
    ledger.count(Gradients("b", torch.zeros(9)), 32)
    assert ledger.mismatches() == ["b gradients down: 36 bytes sent, 32 by the closed form"]


@pytest.fixture
def counted(monkeypatch):
    """Every message that is counted."""
    sent = []
    count = Ledger.count

    def keep(self, message, closed_form):
        sent.append(message)
        count(self, message, closed_form)

    monkeypatch.setattr(Ledger, "count", keep)
    return sent


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["server", "client"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_run_sends_what_the_closed_form_says(make_federation, train_quietly, counted, family, labels):
    federation = make_federation(family, training={"labels": labels})
    train_quietly(federation)
    training, features = federation.config.training, federation.data["g"].train
    assert {m.client for m in counted} == {"a", "b", "c"}
    for client, rank in {"a": 4, "b": 2, "c": 3}.items():
        payloads = {}
        for message in counted:
            if message.client == client:
                payloads.setdefault(message.kind, []).append(message.payload_bytes)
        lengths = [len(f["input_ids"]) for f in features[client]]
        batches = [
            [lengths[i] for i in batch_indices(lengths, 4, 0, client, step)]
            for step in range(training.rounds * training.local_steps)
        ]
        cut = [len(b) * max(b) * 32 * 4 for b in batches]
        mask = [len(b) * max(b) for b in batches]
        label = [8 * len(b) if labels == "server" else 0 for b in batches]
        expected = {"activations": [sum(each) for each in zip(cut, mask, label, strict=True)], "gradients": cut}
        if labels == "client":
            expected |= {"features": cut, "feature-gradients": [c + 8 for c in cut], "head": [4 * 2 * 33] * 5}
        # two layers: bert adapts query and value (32 to 32 each), gpt2 c_attn (32 to 96); a delivery at set-up, then an
        # upload and a delivery a round
        expected["adapters"] = [2 * 4 * rank * (2 * 64 if family == "bert" else 128)] * 5
        expected["base-weights"] = [sum(4 * p.numel() for p in federation.clients[client].half.parameters())]
        assert payloads == expected
    sent = [m for m in counted if m.kind != "base-weights"]
    assert all(m.bytes == len(save({n: t.contiguous() for n, t in m.tensors.items()})) for m in sent)


@pytest.mark.slow
def test_a_message_of_the_wrong_size_stops_the_run(make_federation, train_quietly):
    federation = make_federation()
    forward = SplitClient.forward

    def tampered(self, *args):
        return replace(forward(self, *args), parts={"scale": torch.zeros(1, dtype=torch.uint8)})

    with mock.patch.object(SplitClient, "forward", tampered), pytest.raises(AtlasError, match="byte ledger: a activ"):
        train_quietly(federation)


def test_what_codecs_lost_is_found_by_client_without_a_search():
    """The first and the last round send to all, so that a search for each would take the square of their number."""

    class Names(list):
        def __contains__(self, name):
            raise AssertionError("searched through all clients")

    class Accounts(dict):
        def items(self):
            raise AssertionError("looked at the accounts of all clients")

        values = __iter__ = items

    ledger, names = Ledger(), [f"phone-{i}" for i in range(9)]
    for i, name in enumerate(names):
        ledger.count(Delivery(name, {"x.lora_A": torch.ones(2, 2)}, lost=Lost(4.0, 4.0, 4.0, 1.0, 4 + i)), 16)
        ledger.count(AdapterUpdate(name, {"x.lora_A": torch.ones(2, 2)}), 16)
    assert ledger.lost(Names(names[:2]))["deliveries"] == pytest.approx({"relative_error": 0.5, "cosine": 1.0})
    assert ledger.lost(names[:0]) == {}
    ledger.accounts = Accounts(ledger.accounts)
    assert ledger.coded("phone-3", "deliveries") == 7
    assert ledger.coded("phone-3", "adapters") == ledger.coded("nobody", "deliveries") == 0
