"""What is asked of clients and of a server is asked in the same way in every mode."""

import pytest
import torch

from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.federation.batches import batch_of
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations

MODES = ("split-federated", "federated", "local-only", "centralized")


@pytest.mark.parametrize("mode", MODES)
def test_a_step_and_a_prediction_of_every_mode(mode, make_federation):
    federation = make_federation(mode=mode)
    server, name, ledger = federation.server, next(iter(federation.clients)), Ledger()
    party = federation.clients[name]
    server.begin_round({name: federation.part_of(name)}, 1)
    server.begin_step(0, 1e-3)
    before = {key: value.clone() for key, value in party.exchanged.state().items()}
    loss = party.local_step(batch_of(federation, name, 0), 1, 0, 1.0, server, ledger)
    server.accept()
    server.finish_step()
    assert loss.mean > 0 and loss.count > 0
    # B is zero at first, so that only it has a gradient
    assert any(not torch.equal(before[key], value) for key, value in party.exchanged.state().items())
    assert {kind for _, kind, _ in ledger.entries} == ({"activations", "gradients"} if federation.split else set())
    scores = federation.evaluator(
        federation.data["g"].task, federation.data["g"].test, federation.model_of_client(name)
    )
    assert all(value >= 0 for value in scores.values())
    assert party.measure().adapters == sum(4 * p.numel() for p in party.exchanged.parameters())


def test_a_server_without_a_split_answers_nothing(make_federation):
    federation = make_federation(mode="federated")
    with pytest.raises(AtlasError, match="no part in local steps unless mode is split-federated"):
        federation.server.answer(Activations("a", torch.zeros(1, 2, 32)))
    with pytest.raises(ConfigError, match="use split-federated"):
        federation.split_client("a")
