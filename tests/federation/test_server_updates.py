"""The three server updates against training by hand, on an unsplit model whose weights hold the adapters."""

import copy

import numpy as np
import pytest
import torch
from support.by_hand import ByHand, hidden, optimizer, step, trained
from support.rounds import run_round
from support.slow import slow

from atlas_cli.data.collate import collate
from atlas_cli.federation.build import build
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.seeding import derive
from atlas_cli.wire.ledger import Ledger

SGD = {"name": "sgd", "lr": 0.3, "momentum": 0.9}
ADAMW = {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "betas": [0.8, 0.95]}


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Language-modelling data: lines of 2 to 12 words, so that clients differ in label tokens."""
    draw = np.random.default_rng(0)
    words = [
        "the",
        "a",
        "film",
        "movie",
        "game",
        "phone",
        "price",
        "city",
        "river",
        "good",
        "great",
        "fine",
        "bad",
        "awful",
        "poor",
        "was",
        "is",
    ]
    lines = [" ".join(draw.choice(words, draw.integers(2, 13))) for _ in range(60)]
    path = tmp_path_factory.mktemp("data") / "lines.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def federation(make_federation, texts):
    """A federation whose adapters, above and below the cut, are not at their start, where B = 0."""

    def make(task="sequence-classification", family="bert", **training):
        lm = task == "causal-lm"
        data = {"task_groups": {"g": {"task": task, "data": {"files": texts}}}} if lm else {}
        made = make_federation("gpt2" if lm else family, training=training, **data)
        randomise(made)
        return made

    return make


def randomise(federation, same=False):
    sets = [c.adapters for c in federation.clients.values()] + [federation.server.groups["g"].adapters]
    for i, adapters in enumerate(sets):
        for adapter in adapters.adapters.values():
            generator = torch.Generator().manual_seed(0 if same else i)
            with torch.no_grad():
                adapter.lora_B.copy_(0.05 * torch.randn(adapter.lora_B.shape, generator=generator))


def one_round(federation, cohort=None):
    return run_round(federation, cohort or list(federation.clients), 1, Ledger(), lambda *_: None)


def assert_equal(federation, by_hand, done):
    # where a gradient is near its rounding error AdamW makes a share of a whole step (0.01) of the difference
    tolerance = 2e-6 if federation.config.training.server_optimizer.name == "sgd" else 5e-5
    server = trained(federation.server.heads["g"], federation.server.groups["g"].adapters)
    for p, q in zip(server, trained(by_hand.head, by_hand.upper), strict=True):
        torch.testing.assert_close(p, q, atol=tolerance, rtol=tolerance)
    for client, adapters in by_hand.adapters.items():
        for p, q in zip(federation.clients[client].adapters.parameters(), adapters.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=tolerance, rtol=tolerance)
        counts = [
            int((b.labels >= 0).sum()) if b.labels.dim() == 1 else next_labels(b) for b in by_hand.batches[client]
        ]
        mean = sum(n * loss for n, loss in zip(counts, by_hand.losses[client], strict=True)) / sum(counts)
        assert done[client].loss == pytest.approx(mean, abs=1e-5)
        assert done[client].labels == sum(counts)


def next_labels(batch):
    return int((batch.labels[:, 1:] >= 0).sum())


def moved(federation, by_hand):
    """Whether training changed what the oracle compares; else equality would say nothing."""
    before = trained(by_hand.head, by_hand.upper)
    after = trained(federation.server.heads["g"], federation.server.groups["g"].adapters)
    return max((p - q).abs().max().item() for p, q in zip(before, after, strict=True)) > 1e-3


@pytest.mark.parametrize("clip", [0.5, *slow(None)])
@pytest.mark.parametrize("opt", [SGD, pytest.param(ADAMW, marks=pytest.mark.slow)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("task", ["sequence-classification", "causal-lm"])
@pytest.mark.parametrize("mode", ["pooled", "sequential", "per-client"])
def test_update_equals_training_by_hand(federation, mode, task, opt, clip):
    made = federation(task, server_update=mode, client_optimizer=opt, server_optimizer=opt, max_grad_norm=clip)
    by_hand = ByHand(made)
    done = one_round(made)
    assert moved(made, by_hand)
    if mode == "sequential":
        by_hand.sequential(lambda i: order_by_hand(list(made.clients), i))
    else:
        getattr(by_hand, mode.replace("-", "_"))()
    assert_equal(made, by_hand, done)


def order_by_hand(clients, step):
    draw = np.random.Generator(np.random.PCG64(derive(0, "order", step)))
    return [clients[i] for i in draw.permutation(len(clients))]


def test_sequential_order_is_seeded_and_changes_from_step_to_step():
    orders = {tuple(order_by_hand(["a", "b", "c"], i)) for i in range(12)}
    assert len(orders) > 2


@pytest.mark.parametrize("opt", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("task", ["sequence-classification", "causal-lm"])
def test_pooled_is_training_on_the_pooled_batch(federation, task, opt):
    """Clients that hold equal adapters and stand still: the server sees one large batch."""
    still = {"name": "sgd", "lr": 1e-30}
    made = federation(task, client_optimizer=still, server_optimizer=opt)
    randomise(made, same=True)
    first = copy.deepcopy(made.clients["b"].adapters)  # rank 2: the others get its two rows, so all products are equal
    for client in made.clients.values():
        for path, adapter in client.adapters.adapters.items():
            with torch.no_grad():
                adapter.lora_B.zero_()
                adapter.lora_B[:, :2] = first.adapters[path].lora_B * first.adapters[path].scaling / adapter.scaling
    by_hand = ByHand(made)
    one_round(made)
    assert moved(made, by_hand)
    server = trained(by_hand.head, by_hand.upper)
    stepper = optimizer(server, made.config.training.server_optimizer)
    for i in range(made.config.training.local_steps):
        features = [f for client in made.clients for f in by_hand.batches[client][i].features]
        batch = collate(made.data["g"].task, features, made.pad)
        out = hidden(made.base.model, batch, by_hand.adapters["b"], by_hand.upper)
        loss, _ = made.data["g"].task.loss(by_hand.head(out, batch.attention_mask), batch.labels)
        step(stepper, server, torch.autograd.grad(loss, server), made.config.training.max_grad_norm)
    for p, q in zip(trained(made.server.heads["g"], made.server.groups["g"].adapters), server, strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pooled", "per-client"])
def test_order_of_clients_does_not_matter(federation, mode):
    runs = []
    for cohort in (["a", "b", "c"], ["c", "a", "b"]):
        made = federation("causal-lm", server_update=mode, server_optimizer=SGD, client_optimizer=SGD)
        one_round(made, cohort)
        held = [p for client in made.clients.values() for p in client.trained()]
        runs.append([p.detach().clone() for p in [*made.server.groups["g"].parameters(), *held]])
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6)


def test_client_gets_the_gradient_of_its_own_mean_loss_however_many_clients_there_are(federation):
    made = federation()
    replies = {}
    for cohort in (["a"], ["a", "b", "c"]):
        made.server.begin_round(dict.fromkeys(cohort, "g"), 1)
        made.server.begin_step(0, 0.1)
        for client in cohort:
            batch = next(iter(ByHand(made).batches[client]))
            message = made.clients[client].forward(batch.inputs(), 1, 0, batch.labels)
            reply, loss = made.server.answer(message)
            if client == "a":
                replies[len(cohort)] = reply.gradients
        assert loss.count == 4
    torch.testing.assert_close(replies[1], replies[3], atol=0, rtol=0)


def test_a_group_without_a_client_in_the_cohort_is_not_stepped(federation):
    made = federation()
    before = copy.deepcopy([*made.server.groups["g"].parameters()])
    made.server.begin_round({}, 1)
    made.server.begin_step(0, 0.1)
    made.server.finish_step()
    made.server.finish_round()
    assert all(torch.equal(p, q) for p, q in zip(before, made.server.groups["g"].parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("update", ["pooled", "sequential", "per-client"])
def test_measured_gradients_are_those_that_are_alive_together(update, make_config, toy_csv):
    """Of all task groups until a pooled step is finished, of one client's where each steps by itself; as predicted."""
    group = {"task": "sequence-classification", "data": {"files": toy_csv}}
    groups = {"task_groups": {"g": group, "h": group}, "clients": {"c": {"task_group": "h"}}}
    made = build(make_config(**groups, training={"server_update": update}))
    usage = made.server.measure()
    run_round(made, list("abc"), 1, Ledger(), lambda *_: None)
    said = predict(made.plan, {name: ["neg", "pos"] for name in "gh"}).server
    assert (usage.gradients, usage.optimizer) == (said.gradients, said.optimizer)
    one = sum(4 * p.numel() for p in made.server.groups["g"].parameters())
    assert usage.gradients == (2 * one if update == "pooled" else one)
