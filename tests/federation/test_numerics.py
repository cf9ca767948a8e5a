"""Clipping, and that nothing is stepped with a value that is not finite."""

import copy
from dataclasses import replace

import pytest
import torch
from support.by_hand import batches_of
from support.rounds import run_round
from support.slow import slow
from torch import nn

from atlas_cli.errors import NonFiniteError
from atlas_cli.federation.parties.numerics import clip_and_step, require_finite, seeded_dropout
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.wire.ledger import Ledger

BAD = [float("inf"), -float("inf"), float("nan")]


def two(gradients):
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = torch.tensor(g)
    return parameters, torch.optim.SGD(parameters, lr=1.0)


@pytest.mark.parametrize(("limit", "scale"), [(None, 1.0), (100.0, 1.0), (6.5, 0.5), (1.3, 0.1)])
def test_clip_scales_the_norm_of_all_together(limit, scale):
    parameters, optimizer = two([[3.0, 4.0], [12.0]])  # norm 13
    clip_and_step(optimizer, parameters, limit, "x")
    torch.testing.assert_close(torch.cat([p.detach() for p in parameters]), -scale * torch.tensor([3.0, 4.0, 12.0]))
    assert all(p.grad is None for p in parameters)


@pytest.mark.parametrize("bad", BAD)
def test_gradients_that_are_not_finite_are_not_stepped(bad):
    parameters, optimizer = two([[3.0, bad], [12.0]])
    with pytest.raises(NonFiniteError, match="gradient norm of client a is not finite; try a lower learning rate"):
        clip_and_step(optimizer, parameters, 1.0, "of client a")
    assert all(torch.equal(p, torch.zeros_like(p)) for p in parameters)


def test_require_finite():
    largest = torch.finfo(torch.float32).max
    for fine in ([1.0, 2.0], [], [largest, largest], [-largest, -largest, 1.0]):  # their sum may be infinite
        require_finite(torch.tensor(fine), "x")
    for bad in (*([1.0, bad] for bad in BAD), BAD[:2]):
        with pytest.raises(NonFiniteError, match="loss of client a is not finite"):
            require_finite(torch.tensor(bad), "loss of client a")
    assert NonFiniteError.exit_code == 4


def test_dropout_is_a_function_of_its_purpose_and_leaves_the_global_generator():
    def draw(*purpose):
        with seeded_dropout(0.5, 0, *purpose, device=torch.device("cpu")):
            return torch.rand(4)

    torch.manual_seed(1)
    first, after = draw("a", 1, 0), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(draw("a", 1, 0), first)
    others = [draw("b", 1, 0), draw("a", 2, 0), draw("a", 1, 1)]
    assert not any(torch.equal(first, other) for other in others)


def everything(federation):
    clients = [p for client in federation.clients.values() for p in client.trained()]
    return [p.detach().clone() for p in [*clients, *federation.server.groups["g"].parameters()]]


def spoil(monkeypatch, owner, method, name, bad):
    """Put one bad number into a tensor of the message that ``method`` returns."""
    original = getattr(owner, method)

    def spoilt(self, *args):
        result = original(self, *args)
        message, *rest = result if isinstance(result, tuple) else (result,)
        tensor = getattr(message, name).clone()
        tensor.flatten()[3] = bad
        spoilt = replace(message, **{name: tensor})
        return (spoilt, *rest) if rest else spoilt

    monkeypatch.setattr(owner, method, spoilt)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("update", ["pooled", *slow("sequential", "per-client")])
@pytest.mark.parametrize(
    ("labels", "owner", "method", "tensor", "says"),
    [
        ("server", SplitClient, "send", "activations", "activation sent by client a, round 1"),
        ("server", SplitServer, "answer", "gradients", "gradient sent to client a"),
        ("client", SplitServer, "features", "features", "loss of client a"),
        ("client", SplitClient, "answer_features", "gradients", "gradient sent by client a, round 1"),
        ("client", SplitServer, "answer_gradients", "gradients", "gradient sent to client a"),
    ],
)
def test_a_bad_number_on_the_wire_stops_before_its_receiver_steps(
    make_federation, monkeypatch, labels, owner, method, tensor, says, update, bad
):
    fuse = "off" if method == "answer" else "auto"  # clients that share a pass are answered together
    federation = make_federation(training={"labels": labels, "server_update": update}, engine={"fuse": fuse})
    before = everything(federation)
    spoil(monkeypatch, owner, method, tensor, bad)
    with pytest.raises(NonFiniteError, match=says):
        run_round(federation, ["a"], 1, Ledger(), lambda *_: None)
    clients = len([p for c in federation.clients.values() for p in c.trained()])
    after = everything(federation)
    # the sender may have stepped before its message went wrong on the way; who received it has not
    checked = slice(None) if owner is SplitClient else slice(clients)
    assert all(torch.equal(p, q) for p, q in zip(before[checked], after[checked], strict=True))


@pytest.mark.parametrize("update", ["pooled", "sequential", "per-client"])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_the_server_computes_is_checked_before_anyone_steps(make_federation, monkeypatch, update, where):
    """The loss is infinite; or finite, as all gradients of the server are, with a gradient at the cut that is not."""
    federation = make_federation(training={"server_update": update})
    if where == "loss":
        task = federation.data["g"].task
        loss_of = task.loss
        monkeypatch.setattr(task, "loss", lambda *args: (loss_of(*args)[0] + torch.inf, 4))
    else:
        grad = torch.autograd.grad

        def bad_at_the_cut(*args, **options):
            first, *rest = grad(*args, **options)
            return first * torch.inf, *rest

        monkeypatch.setattr(torch.autograd, "grad", bad_at_the_cut)
    before = everything(federation)
    with pytest.raises(NonFiniteError, match=r"(for|of) client [ab], round 1, step 0"):
        run_round(federation, ["a", "b"], 1, Ledger(), lambda *_: None)
    assert all(torch.equal(p, q) for p, q in zip(before, everything(federation), strict=True))


@pytest.mark.parametrize("part", ["adapters", "head"])
def test_unsplit_clients_step_nothing_when_one_part_is_not_finite(make_federation, part):
    federation = make_federation(mode="federated")
    client = federation.clients["a"]
    batch = next(batches_of(federation, "a"))
    spoilt = client.head if part == "head" else client.upper.adapters["encoder.layer.3.attention.self.value"]
    before = copy.deepcopy([p.detach() for p in client.trained()])
    parameter = next(spoilt.parameters())
    parameter.register_hook(lambda grad: grad * torch.inf)
    with pytest.raises(NonFiniteError):
        client.train_on(batch.inputs(), batch.labels, 1, 0)
    assert all(torch.equal(p, q) for p, q in zip(before, client.trained(), strict=True))
