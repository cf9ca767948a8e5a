"""Users with several clients: epsilon of all that they sent, by how often and by who added the noise."""

import pytest
import torch

from atlas_cli.aggregation.contract import Factors, Update
from atlas_cli.config.checks import cross_check
from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.privacy import PrivacyConfig
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.run_budget import RunBudget
from atlas_cli.privacy.account.accounting import gaussian_epsilon
from atlas_cli.privacy.mechanisms.updates import UpdateNoise

NOISE = {"clip": 0.5, "noise_multiplier": 2.0}


def spent(make_federation, channel, **changes):
    federation = make_federation(aggregation={"weights": "uniform"}, training={"rounds": 3}, **changes)
    return federation.protection, {g: e[channel] for g, e in federation.protection.account.after(3).items()}["g"]


@pytest.mark.parametrize(("where", "uses"), [("server", 9), ("client", 3)])
def test_updates_of_a_user_with_three_clients(make_federation, where, uses):
    """Noise of the server is added once to a sum that moves three times as far; clients add theirs one by one."""
    privacy = {"clients_per_user": 3, "updates": {**NOISE, "where": where}}
    protection, epsilon = spent(make_federation, "updates", privacy=privacy)
    assert epsilon == gaussian_epsilon(2.0, 3 * uses, 1e-5) == protection.account.of_client("a", 3)["updates"]
    assert protection.units() == {"updates": "user with up to 3 clients"}
    assert protection.record()["mechanisms"]["updates"]["unit"] == "user with up to 3 clients"


def test_fingerprints_of_a_user_with_two_clients(make_federation):
    privacy = {"clients_per_user": 2, "fingerprints": NOISE}
    protection, epsilon = spent(make_federation, "fingerprints", privacy=privacy, clustering={"k": 2, "batches": 1})
    assert epsilon == gaussian_epsilon(2.0, 2, 1e-5)
    assert protection.units() == {"fingerprints": "user with up to 2 clients"}


@pytest.mark.slow
def test_a_target_is_met_for_the_user(make_federation):
    privacy = {"clients_per_user": 2, "updates": {"clip": 0.5, "epsilon": 4.0}}
    protection, epsilon = spent(make_federation, "updates", privacy=privacy)
    assert 3.95 < epsilon <= 4.0
    assert protection.account.multipliers["updates"] == pytest.approx(2 * one_client(make_federation), rel=2e-3)


def one_client(make_federation):
    protection, _ = spent(make_federation, "updates", privacy={"updates": {"clip": 0.5, "epsilon": 4.0}})
    return protection.account.multipliers["updates"]


@pytest.mark.parametrize("clients", [1, 3])
def test_the_mean_moves_by_a_clip_for_each_client_of_a_user(clients):
    """Of updates as long as they may be, and all alike, against none: the sensitivity that is squared above."""
    zero = Factors(torch.zeros(1, 2), torch.zeros(1, 1))
    names = "abc"[:clients]
    made = UpdateNoise(2.0, 1e-12, "server", 0, {"g": 4})
    made.begin(1, {name: {"head.w": torch.zeros(3)} for name in names})
    sent = {name: made.protect(name, {"head.w": torch.full((3,), 100.0)}, {}) for name in names}
    updates = [Update(name, 1.0, {"p": zero}) for name in names]
    _, heads = made.mean("g", {"p": zero}, {"head.w": torch.zeros(3)}, ("A", "B"), updates, sent)
    assert float(heads["a"]["head.w"].norm()) == pytest.approx(clients * 2.0 / 4)


def test_users_of_nothing_and_on_a_ledger_are_refused(make_config, tmp_path):
    with pytest.raises(ValueError, match="changes the epsilon of updates and of fingerprints, and neither is on"):
        PrivacyConfig(clients_per_user=2)
    many = make_config(aggregation={"weights": "uniform"}, privacy={"clients_per_user": 4, "updates": NOISE})
    says = "must be at most 3, the clients of this config, got 4"
    assert cross_check(many) == [Problem(("privacy", "clients_per_user"), says)]
    privacy = {"clients_per_user": 2, "updates": NOISE}
    config = make_config(aggregation={"weights": "uniform"}, privacy=privacy)
    with pytest.raises(ConfigError, match="not which clients are one user's") as refused:
        RunBudget(config, None, None, {}, tmp_path / "ledger.json")
    assert refused.value.key == "privacy.clients_per_user"
