"""Codecs in federations that train: what crosses the cut, in which bytes, and what each side makes of it."""

import re
from unittest import mock

import pytest
import torch
from support.rounds import exchange

from atlas_cli.data.collate import collate
from atlas_cli.engines.remote.arrays import size_of
from atlas_cli.engines.remote.host import ClientHost, ClientSetup, SentMessage
from atlas_cli.engines.remote.sent_state import SentState
from atlas_cli.experiment.split_check import before_codecs, require_verified
from atlas_cli.experiment.split_proof import verify_split
from atlas_cli.federation.batches import batches_of
from atlas_cli.planning.devices.step_bytes import step_bytes
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.lost import Lost
from atlas_cli.wire.messages import Gradients
from atlas_cli.wire.serialized import to_bytes


def batch_of(federation, client="a", texts=4):
    features = federation.train_features(client)[:texts]
    federation.server.begin_round({client: "g"}, 1, {client: federation.clients[client].cut})
    return collate(federation.data["g"].task, features, federation.pad, *federation.padding)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "token"), [("bfloat16", 2 * 32), ("int8", 32 + 4)])
@pytest.mark.parametrize("labels", ["server", "client"])
def test_compressed_messages_have_their_closed_form_and_are_near(make_federation, train_quietly, kind, token, labels):
    wire = {"activations": {"codec": kind}, "gradients": {"codec": kind}}
    federation = make_federation(wire=wire, training={"labels": labels, "rounds": 1})
    plain = make_federation(training={"labels": labels})
    batch, sent = batch_of(federation), Ledger()
    down, loss = exchange(federation.server, federation.clients["a"], batch, 1, 0, sent)
    exact, exact_loss = exchange(plain.server, plain.clients["a"], batch_of(plain), 1, 0, Ledger())
    tokens = batch.input_ids.numel()
    entries = {(kind, way): entry.payload_bytes for (_, kind, way), entry in sent.entries.items()}
    assert entries["gradients", "down"] == tokens * token
    assert entries["activations", "up"] == tokens * (token + 1) + 8 * (len(batch.labels) if labels == "server" else 0)
    if labels == "client":
        assert entries["features", "down"] == entries["feature-gradients", "up"] - 8 == tokens * token
    assert not sent.mismatches()
    gradients = down.gradients - exact.gradients
    assert 0 < gradients.norm() < 0.03 * exact.gradients.norm()
    assert loss.mean == pytest.approx(exact_loss.mean, abs=0.01)
    train_quietly(federation)


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "nf4"])
def test_bytes_of_a_compressed_step_are_predicted(make_federation, kind):
    federation = make_federation(wire={"activations": {"codec": kind}, "gradients": {"codec": kind}})
    batch, sent = batch_of(federation), Ledger()
    exchange(federation.server, federation.clients["a"], batch, 1, 0, sent)
    codecs = federation.plan.codecs(federation.plan.by_name["a"])
    predicted = step_bytes(federation.plan.hf_config, *batch.input_ids.shape, labels=batch.labels, codecs=codecs)
    assert (predicted.up, predicted.down) == (sent.total("up", ["a"]), sent.total("down", ["a"]))


@pytest.mark.parametrize("codec", ["none", "int4"])
def test_small_messages_have_a_compact_header_where_it_is_asked_for(make_federation, codec):
    """Predicted and counted, with as many bytes as are written; between processes, too."""
    kinds = {kind: {"codec": codec} for kind in ("activations", "gradients")}
    own = {"b": {"task_group": "g", "wire": {"header": "safetensors"}}}
    federation = make_federation(wire={"header": "compact", **kinds}, clients=own, training={"batch_size": 1})
    sizes, sent = {}, []
    for client in "ab":
        batch, ledger = batch_of(federation, client, 1), Ledger(sent.append)
        exchange(federation.server, federation.clients[client], batch, 1, 0, ledger)
        federation.server.accept()
        codecs = federation.plan.codecs(federation.plan.by_name[client])
        predicted = step_bytes(federation.plan.hf_config, *batch.input_ids.shape, labels=batch.labels, codecs=codecs)
        assert (predicted.up, predicted.down) == (ledger.total("up", [client]), ledger.total("down", [client]))
        sizes[client] = [message.bytes - message.payload_bytes for message in sent[-2:]]
    assert all(message.bytes == len(to_bytes(message.tensors)) for message in sent[:2])
    assert max(sizes["a"]) < 30 and min(sizes["b"]) > 70
    assert SentMessage.of(sent[0]).compact and not SentMessage.of(sent[2]).compact


def test_a_client_has_codecs_of_its_own_and_those_of_all_where_it_has_none(make_federation):
    federation = make_federation(
        wire={"activations": {"codec": "int8"}, "gradients": {"codec": "bfloat16"}},
        clients={
            "a": {"task_group": "g", "wire": {"activations": {"codec": "int4", "options": {"block": None}}}},
            "b": {"task_group": "g", "wire": {"gradients": {"codec": "none"}}},
            "c": {"task_group": "g"},
        },
    )
    sizes = {}
    for client in "abc":
        batch, sent = batch_of(federation, client), Ledger()
        exchange(federation.server, federation.clients[client], batch, 1, 0, sent)
        federation.server.accept()
        assert not sent.mismatches()
        tokens = batch.input_ids.numel()
        kinds = ("activations", "up"), ("gradients", "down")
        up, down = (sent.entries[client, *kind].payload_bytes for kind in kinds)
        sizes[client] = (up - 8 * len(batch.labels)) / tokens - 1, down / tokens
    assert sizes == {"a": (16 + 4, 64), "b": (32 + 4, 128), "c": (32 + 4, 64)}
    assert federation.plan.one_by_one == "wire"


def test_the_noise_of_a_mechanism_comes_before_the_codec(make_federation):
    """What is sent is the noisy tensor, encoded: a codec loses what it loses of the noise, too."""
    federation = make_federation(
        privacy={"activations": {"clip": 1.0, "noise_multiplier": 0.5}}, wire={"activations": {"codec": "int4"}}
    )
    client, inputs = federation.clients["a"], batch_of(federation)
    noisy = client.forward(inputs.inputs(), 1, 0, None).activations
    sent = client.forward_batch(inputs, 1, 0)
    assert sent.activations.dtype == torch.uint8
    codec = client.wire.codecs["activations"]
    assert client.wire.decode(sent).activations.equal(codec.decode(codec.encode(noisy, None), noisy.shape[2]))
    require_verified(verify_split(federation))  # the proof is of the split before noise and codecs


def test_packed_bits_travel_between_processes(make_federation):
    """A host answers with the encoded parts, and takes encoded gradients."""
    federation = make_federation(wire={"activations": {"codec": "int4"}, "gradients": {"codec": "int8"}})
    planned, party = federation.plan.by_name["a"], federation.clients["a"]
    bases = {planned.format: federation.base_of("a")}
    host = ClientHost(federation.config, bases, federation.device, torch.get_num_threads())
    setup = ClientSetup(planned, batches_of(federation, "a"), {})
    host.do_begin("a", setup, SentState.of(party, federation.aggregator.members["a"]))
    packed, lost, _ = host.do_forward("a", 1, 0)
    up = party.forward_batch(setup.batches.at(0), 1, 0)
    assert lost == up.lost and size_of(packed) == up.payload_bytes and str(packed["activations"].dtype) == "uint8"
    assert {name: array.values.tolist() for name, array in packed.items()} == {
        name: tensor.tolist() for name, tensor in up.tensors.items()
    }


def test_what_codecs_lose_is_in_the_records_of_every_round(make_federation, train_quietly):
    """Of a group's messages of one kind, as one vector."""
    federation = make_federation(
        wire={"activations": {"codec": "int4"}, "gradients": {"codec": "top-k", "options": {"share": 0.5}}},
        training={"rounds": 1, "local_steps": 1},
    )
    client, batch = federation.clients["a"], batches_of(federation, "a").at(0)
    decoded = client.wire.decode(client.forward_batch(batch, 1, 0))
    exact = client.forward(batch.inputs(), 1, 0, None).activations
    of_a = float((decoded.activations - exact).norm() / exact.norm())
    recorder = train_quietly(federation)
    assert "compression" not in recorder.metrics[0]
    found = recorder.metrics[1]["compression"]
    assert set(found) == {"activations", "gradients"}
    sent = found["activations"]
    assert sent["relative_error"] == pytest.approx(of_a, rel=0.2) and sent["cosine"] > 0.99
    kept = found["gradients"]  # what is kept is as it was: the rest is the error
    assert kept["cosine"] ** 2 + kept["relative_error"] ** 2 == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_what_is_said_of_the_proof_and_of_headers_is_of_runs_with_codecs(make_federation, train_quietly):
    """Of clients that have no compact header; the shares are those of the ledger, in which small ones are left out."""
    kinds = {kind: {"codec": "int4"} for kind in ("activations", "gradients")}
    own = {"b": {"task_group": "g", "wire": {"header": "compact"}}}
    plain, federation = make_federation(), make_federation(wire=kinds, clients=own, training={"rounds": 1})
    assert before_codecs(plain.config) == [] and "before wire encodes" in before_codecs(federation.config)[0]
    with mock.patch.object(PlainProgress, "note") as note:
        train_quietly(federation)
    (said,) = [call.args[0] for call in note.call_args_list if "headers" in call.args[0]]
    found = re.fullmatch(
        r"note: headers are (.*) of activations up, .* of gradients down; wire.header: compact .*", said
    )
    assert 2 < float(found[1].split()[-1].removesuffix("%")) < 60

    ledger = Ledger()
    for client, size in (("a", 100), ("a", 300), ("b", 9), ("c", 100_000)):
        ledger.count(Gradients(client, torch.zeros(1, 1, size)), 4 * size)
    header = Gradients("a", torch.zeros(1, 1, 100)).bytes - 400
    assert ledger.headers("a") == {("gradients", "down"): pytest.approx(2 * header / (1600 + 2 * header), rel=0.02)}
    assert ledger.headers("c") == ledger.headers("x") == {}


def test_what_is_lost_is_the_same_for_numbers_of_any_size():
    before, draw = torch.randn(3, 4, 5), torch.Generator().manual_seed(0)
    after = before + 0.1 * torch.randn(before.shape, generator=draw)
    figures = [Lost.of(before * size, after * size, float(before.abs().max()) * size).figures() for size in (1, 1e-30)]
    assert figures[0]["relative_error"] == pytest.approx(float((after - before).norm() / before.norm()))
    assert figures[0]["cosine"] == pytest.approx(float(torch.cosine_similarity(before.flatten(), after.flatten(), 0)))
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)
    assert Lost.of(torch.zeros(2), torch.zeros(2), 0.0).figures() == {"relative_error": None, "cosine": None}
