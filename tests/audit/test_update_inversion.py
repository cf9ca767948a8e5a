"""What a client reads of another in its deliveries: with two of equal rank, all that the other one sent."""

from dataclasses import replace

import pytest
import torch

from atlas_cli.audit.attacks import attack_of, update_inversion
from atlas_cli.audit.attacks._others_updates import others_updates
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.wire.messages import AdapterUpdate

TWO = {
    "task": "causal-lm",
    "family": "gpt2",
    "clients": {"a": {"task_group": "g", "rank": 16}, "b": {"rank": 16, "count": 1}},
    "aggregation": {"method": "zero-pad"},
    "evaluation": {"every": 11},
    "audit": {"record": {"rounds": [*range(1, 12)]}},
    "training": {
        "rounds": 11,
        "local_steps": 1,
        "batch_size": 1,
        "client_optimizer": {"name": "sgd", "lr": 10.0},
    },
}


@pytest.fixture(scope="module")
def two(trained):
    return Evidence.of_run(trained(**TWO))


def sent_by(evidence, client, number):
    (message,) = (m for m in evidence.messages if (m.client, m.round, m.type) == (client, number, AdapterUpdate))
    return message.read(AdapterUpdate).named


@pytest.mark.slow
def test_of_two_clients_each_recovers_what_the_other_sent(two):
    """The oracle is the message of the other, which the observer never saw."""
    found = list(others_updates(two))
    assert {(each.observer, each.clients) for each in found} == {("a", ("b",)), ("b", ("a",))}
    for each in found:
        for name, value in sent_by(two, each.clients[0], each.round).items():
            torch.testing.assert_close(each.after[name], value, atol=2e-6, rtol=1e-5)
            if each.round > 1:
                moved = float((value - each.before[name]).abs().max())
                assert float((each.after[name] - value).abs().max()) < 0.05 * moved


@pytest.mark.slow
def test_texts_of_the_other_client_are_recovered_and_none_from_noise(two, monkeypatch):
    figure = attack_of("update-inversion").attack(two)
    assert figure.low > 2 * figure.floor and figure.examples == 20
    assert (figure.channel, figure.best) == ("deliveries", 1.0)
    draw = torch.Generator().manual_seed(0)

    def noise(each):
        return replace(each, after={n: t + torch.randn(t.shape, generator=draw) for n, t in each.after.items()})

    monkeypatch.setattr(update_inversion, "others_updates", lambda evidence: map(noise, others_updates(evidence)))
    drowned = attack_of("update-inversion").attack(two)
    assert drowned.low <= max(drowned.chance, drowned.floor) + 0.02


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"aggregation": {"method": "delta-svd"}}, "a merge by delta-svd is no mean of what clients send"),
        ({"clients": {"b": {"rank": 2}}}, "unequal ranks, and what padding adds is mixed in"),
        ({"training": {"client_optimizer": {"name": "adamw"}}}, "no plain gradient, .* client_optimizer.name: sgd"),
    ],
)
@pytest.mark.slow
def test_merges_that_cannot_be_taken_apart_are_refused(trained, changes, says):
    few = {"rounds": 2, "local_steps": 1, "batch_size": 1, "client_optimizer": {"name": "sgd", "lr": 10.0}}
    asked = {**TWO, **changes, "audit": {"record": {"rounds": [1, 2]}}}
    asked["training"] = {**few, **changes.get("training", {})}
    asked["clients"] = {**TWO["clients"], **changes.get("clients", {})}
    with pytest.raises(Inapplicable, match=says):
        attack_of("update-inversion").attack(Evidence.of_run(trained(**asked)))


@pytest.mark.slow
def test_rounds_in_which_A_rests_tell_nothing_and_are_left_out(trained):
    """``rolora`` merges A in even rounds alone: of 20 rounds with two clients ten have 20 texts to find."""
    training = {**TWO["training"], "rounds": 21}
    asked = {**TWO, "aggregation": {"method": "rolora"}, "training": training}
    asked |= {"evaluation": {"every": 21}, "audit": {"record": {"rounds": [*range(1, 22)]}}}
    evidence = Evidence.of_run(trained(**asked))
    moved = {update.round for update in others_updates(evidence) if len(update_inversion.span(evidence, update))}
    assert moved == {*range(2, 21, 2)}
    figure = attack_of("update-inversion").attack(evidence)
    assert figure.examples == 20 and figure.low > 2 * figure.floor
