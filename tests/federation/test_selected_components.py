"""Clients that train a part of the group's components: what they run before training, and what it costs them."""

import pytest
import torch
from support.by_hand import batches_of
from support.rounds import run_round

from atlas_cli import SplitClient, SplitServer, federated_training_round
from atlas_cli.aggregation.contract import delta
from atlas_cli.experiment.round_loop import deliver, set_up
from atlas_cli.federation.build import build
from atlas_cli.models.halves.split import run_half
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.planning.round_bytes import Shape
from atlas_cli.planning.step_flops import step_flops
from atlas_cli.wire.ledger import Ledger

RANKS = {"a": 4, "b": 2, "c": 3}


@pytest.fixture
def ready(make_config):
    def make(method="fed-plora", **changes):
        fast = {"client_optimizer": {"lr": 0.02}, "server_optimizer": {"lr": 0.02}}
        made = build(make_config(aggregation={"method": method}, training=fast, **changes))
        set_up(made)
        return made

    return make


def a_round(made, number):
    ledger = Ledger()
    run_round(made, list(RANKS), number, ledger, lambda *_: None)
    made.aggregator.merge("g", list(RANKS), ledger, number)
    deliver(made, list(RANKS), ledger)
    return ledger


@torch.no_grad()
def activations(made, adapters):
    batch = next(batches_of(made, "a"))
    with adapters.train(False).attached(made.base.model):
        return run_half(made.clients["a"].half, batch.attention_mask, input_ids=batch.input_ids)


def test_every_client_begins_with_what_the_group_computes(ready):
    """Whatever its rank, in every round, by the activations that it sends; it trains other components each time."""
    made = ready()
    group, seen = made.aggregator.groups["g"], []
    for number in (1, 2, 3):
        before = {path: delta(factors) for path, factors in group.merged.items()}
        a_round(made, number)
        assert all(not torch.equal(delta(group.merged[path]), old) for path, old in before.items())
        whole = activations(made, group.adapters)
        for client, rank in RANKS.items():
            own = made.clients[client].adapters
            assert set(own.ranks.values()) == {rank}
            torch.testing.assert_close(activations(made, own), whole, atol=2e-6, rtol=1e-5)
        seen.append(group.components("b", made.clients["b"].ranks))
    assert seen[0] != seen[1] != seen[2]


@pytest.mark.slow
def test_bytes_and_work_are_those_of_all_components(ready):
    """Down 4 R (d_in + d_out) a layer to every client, as is predicted; forward and backward of what is frozen."""
    made, plain = ready(), ready("zero-pad")
    ledger = a_round(made, 1)
    said, without = (predict(each.plan, {"g": ["neg", "pos"]}).rounds for each in (made, plain))
    for client, rank in RANKS.items():
        kinds = [ledger.entries.get((client, kind, "down")) for kind in ("adapters", "base-total")]
        assert sum(entry.payload_bytes for entry in kinds if entry) == 4 * 4 * 4 * (32 + 32)
        beside = kinds[1].bytes if kinds[1] else 0
        assert said[client].down - without[client].down == beside and said[client].up == without[client].up
        own, shape = made.plan.by_name[client], Shape(4, 16, True)
        task, parts = made.data["g"].task, ("A", "B")
        ours, theirs = (step_flops(each.plan, own, own.ranks, task, shape, parts)[0] for each in (made, plain))
        once = 4 * 16 * 4 * 2 * (4 - rank) * (32 + 32)  # tokens, layers
        assert ours.forward - theirs.forward == once
        assert 0 <= once - (ours.backward - theirs.backward) <= once / 2  # the lowest need no gradient of their input


def test_rounds_by_hand_begin_with_the_components_of_their_first_merge(model_folder):
    model = {"model_name": model_folder("bert"), "split_layer": 2, "init": "random"}
    clients = [SplitClient(name, rank_config=rank, **model) for name, rank in (("a", 2), ("b", 4))]
    server = SplitServer(num_classes=3, **model)
    draw = torch.Generator().manual_seed(0)
    data = {name: {"input_ids": torch.randint(5, 50, (4, 12), generator=draw)} for name in "ab"}
    for _ in range(2):
        federated_training_round(clients, server, data, {0: ["a", "b"]}, aggregation="fed-plora")
        for path, adapter in clients[0].adapters.adapters.items():
            ((A, B),) = clients[0].adapters.frozen[path]
            whole = clients[1].adapters.adapters[path]
            worth = adapter.scaling * adapter.lora_B @ adapter.lora_A + B @ A
            torch.testing.assert_close(worth, whole.scaling * whole.lora_B @ whole.lora_A)
