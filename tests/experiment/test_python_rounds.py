"""Rounds of the Python interface, one after the other, against the exact mean of what clients trained to."""

import pytest
import torch

from atlas_cli import SplitClient, SplitServer, federated_training_round
from atlas_cli.config.schema.experiment import OptimizerConfig, TrainingConfig
from atlas_cli.errors import ConfigError
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.models.frozen.load import shared_base
from atlas_cli.tasks._heads import pooled_token

SGD = OptimizerConfig(name="sgd", lr=0.5)


@pytest.fixture
def parties(model_folder):
    def make(seeds=(0, 0)):
        base = shared_base(model_folder("gpt2"), "pretrained", torch.device("cpu"), 0)
        common = {"base": base, "training": TrainingConfig(client_optimizer=SGD, server_optimizer=SGD)}
        ranks = (4, 2)
        clients = [SplitClient(i, None, ranks[i], 2, seed=seeds[i], **common) for i in range(2)]
        return clients, SplitServer(n_tasks=1, split_layer=2, num_classes=3, **common)

    return make


def batches():
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 30, (2, 4, 6), generator=draw)
    return {i: {"input_ids": ids[i], "labels": torch.tensor([0, 1, 2, i])} for i in range(2)}


def dense(client):
    """What a client adds to each frozen weight, as matrices."""
    found = {}
    for path, adapter in client.adapters.adapters.items():
        found[path] = adapter.scaling * adapter.lora_B.detach().double() @ adapter.lora_A.detach().double()
        for A, B in client.adapters.frozen.get(path, ()):
            found[path] = found[path] + B.double() @ A.double()
    return found


@pytest.mark.parametrize("method", ["flora", "fedex"])
def test_the_base_holds_the_merges_of_all_rounds(parties, monkeypatch, method):
    """What both run after a round is the mean of what they had trained to, over all that was merged before."""
    clients, server = parties()
    trained, merge = [], Aggregator.merge

    def merging(*args):
        trained[:] = [dense(client) for client in clients]
        return merge(*args)

    monkeypatch.setattr(Aggregator, "merge", merging)
    first = {name: value.clone() for name, value in clients[0].adapters.state().items()}
    for _ in range(4):
        federated_training_round(clients, server, batches(), {0: [0, 1]}, aggregation=method)
        for path in trained[0]:
            exact = (trained[0][path] + trained[1][path]) / 2
            assert exact.abs().max() > 1e-3 and (trained[0][path] - trained[1][path]).abs().max() > 1e-3
            for client in clients:
                torch.testing.assert_close(dense(client)[path], exact, atol=1e-5, rtol=1e-3)
        if method == "flora":  # A is drawn anew in each round
            again = clients[0].adapters.state()
            assert all(not torch.equal(first[name], again[name]) for name in again if name.endswith("lora_A"))
            first = {name: value.clone() for name, value in again.items()}
    with pytest.raises(ConfigError, match="go on only with the same server, clients, task groups and aggregation"):
        federated_training_round(clients, server, batches(), {0: [0, 1]}, aggregation="delta-svd")


def test_clients_that_begin_apart_are_refused_where_they_must_begin_alike(parties):
    with pytest.raises(ConfigError, match="client 1 does not begin with its group's adapter, as flora needs"):
        federated_training_round(*parties(seeds=(0, 1)), batches(), {0: [0, 1]}, aggregation="flora")


def test_what_a_method_leaves_with_clients_stays_theirs(parties):
    clients, server = parties()
    federated_training_round(clients, server, batches(), {0: [0, 1]}, aggregation="fedsa")
    one, other = (client.adapters.adapters for client in clients)
    for path, adapter in other.items():
        apart = one[path].scaling * one[path].lora_B[:, :2] - adapter.scaling * adapter.lora_B
        assert apart.abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["last", "first"])
def test_the_real_tokens_at_the_ends_are_found_on_either_side_of_the_padding(parties, pooling):
    (client, _), server = parties()
    server.heads["0"].pool.pooling = pooling
    ids, labels = torch.randint(5, 30, (3, 6), generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    lengths, sides = (6, 4, 1), {"left": [], "right": []}
    alone = []
    for row, length in enumerate(lengths):
        activations = client.compute_activations({"input_ids": ids[row : row + 1, :length]})[0]
        alone.append(server.compute_loss(activations[None], labels[row : row + 1], 0)[0])
        padding = torch.full((6 - length, activations.shape[1]), 3.0)
        sides["left"].append(torch.cat([padding, activations]))
        sides["right"].append(torch.cat([activations, padding]))
    for side, rows in sides.items():
        mask = torch.tensor([[1] * n + [0] * (6 - n) for n in lengths])
        mask = mask.flip(1) if side == "left" else mask
        loss, gradients = server.compute_loss(torch.stack(rows), labels, 0, attention_mask=mask)
        assert float(loss) == pytest.approx(float(sum(alone)) / 3, rel=1e-5)
        assert not gradients[mask == 0].any() and gradients[mask == 1].any()
        chosen = pooled_token(pooling, mask)
        assert chosen.sum(1).tolist() == [1, 1, 1] and mask[chosen].all()
