"""The step with codecs against the same without, which every round records."""

from unittest import mock

import pytest
import torch
from support.rounds import exchange
from support.slow import slow

from atlas_cli.experiment import round_loop
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.compressed_step import compressed_steps
from atlas_cli.wire.ledger import Ledger

WIRE = {
    "activations": {"codec": "delta", "options": {"first": "int4"}},
    "gradients": {"codec": "top-k", "options": {"share": 0.3}, "feedback": True},
}


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients])


def first_step(federation, client):
    """Loss and gradients of a client's first step through the federation's own server."""
    party, server = federation.clients[client], federation.server
    server.begin_round({client: "g"}, 1)
    down, loss = exchange(server, party, batch_of(federation, client, 0), 1, 0, Ledger())
    party.backward(down.gradients)
    server.accept()
    return loss.mean, flat(p.grad for p in party.trained()), flat(server.groups["g"].mean_gradients())


@pytest.mark.parametrize("labels", ["server", "client"])
def test_it_is_the_step_that_a_client_takes_and_the_one_that_it_would_take_without_codecs(make_federation, labels):
    federation = make_federation(wire=WIRE, training={"labels": labels})
    found = compressed_steps(federation, ["a", "b"], 1)["g"]
    assert found.client == "b" and compressed_steps(federation, ["a", "b"], 2)["g"].client == "a"
    loss, gradient, server = first_step(federation, "b")
    exact_loss, exact, exact_server = first_step(make_federation(training={"labels": labels}), "b")
    assert (found.loss, found.exact_loss) == (loss, exact_loss) and loss != exact_loss
    for figures, one, other in ((found.gradient, exact, gradient), (found.server_gradient, exact_server, server)):
        assert figures["relative_error"] == pytest.approx(float((other - one).norm() / one.norm()), rel=1e-4)
        assert figures["cosine"] == pytest.approx(float(torch.cosine_similarity(one, other, 0)), rel=1e-4)
    assert not compressed_steps(make_federation(), ["a"], 1)


def test_of_a_client_that_gets_no_gradient_it_is_what_the_server_learns(make_federation):
    kinds = {name: {"task_group": "g", "learns": learns} for name, learns in (("a", "frozen"), ("b", "auxiliary"))}
    federation = make_federation(clients=kinds, wire={"activations": {"codec": "int4"}})
    for name in kinds:
        found = compressed_steps(federation, [name], 1)["g"]
        assert found.gradient is None and 0.5 < found.server_gradient["cosine"] < 1 and found.loss != found.exact_loss


@pytest.mark.parametrize("method", ["flora", *slow("rolora")])
def test_a_run_is_the_same_with_it_as_without(make_federation, train_quietly, method):
    """With base changes, or parts that are frozen in turn, and codecs that keep something of texts."""
    changes = {"aggregation": {"method": method}, "training": {"local_steps": 1}}
    federation, other = (make_federation(wire=WIRE, **changes) for _ in "ab")
    recorder = train_quietly(federation)
    losses = {(line["round"], line["client"]): line["train_loss"] for line in recorder.clients}
    steps = [(line["round"], line["compressed_step"]) for line in recorder.metrics if line["round"]]
    assert [step["client"] for _, step in steps] == ["b", "c"]
    assert all(step["loss"] == losses[number, step["client"]] for number, step in steps)  # of its one step
    with mock.patch.object(round_loop, "compressed_steps", return_value={}):
        train_quietly(other)
    theirs = other.server.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in federation.server.state_dict().items())
