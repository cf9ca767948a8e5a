"""Changes of clients that took unequal local steps, merged per step (FedNova)."""

import pytest
import torch
from support.merging import factors, method, weights

from atlas_cli.aggregation.contract import Context, Factors, Update, delta
from atlas_cli.aggregation.error import exact_sum
from atlas_cli.aggregation.merge_optimizer import MergeOptimizer, Rule
from atlas_cli.config.schema.aggregation import MergeOptimizerConfig

D_IN, D_OUT, R = 6, 7, 3  # so that running sums at twice the rank are whole
RANKS, STEPS, OWN = {"a": 3, "b": 1, "c": 2}, {"a": 4.0, "b": 1.0, "c": 2.0}, {"a": 1.0, "b": 3.0, "c": 2.0}


def optimizer(of, steps, **given):
    return MergeOptimizer(Rule.of(MergeOptimizerConfig.model_validate(given)), of, steps)


def trained(before, of, steps, seed):
    """What clients sent, with the weights that they have where changes are normalised by ``steps``."""
    updates = []
    for client, r in RANKS.items():
        noise = factors(R, D_IN, D_OUT, seed=seed + ord(client))
        A = before.A[:r] + (0.1 * noise.A[:r] if "A" in of.TRAINED else 0)
        updates.append(
            Update(client, OWN[client] / steps[client], {"q": Factors(A, before.B[:, :r] + 0.1 * noise.B[:, :r])})
        )
    return updates


def change_by_hand(name, before, updates):
    """The sum of p_k times the sum of p_k D_k / t_k, p_k t_k and D_k in full."""
    shares = {c: weight / sum(OWN.values()) for c, weight in OWN.items()}
    normalised = torch.zeros(D_OUT, D_IN, dtype=torch.float64)
    for update in updates:
        own, r = update.adapters["q"], RANKS[update.client]
        began = delta(before) if name != "delta-svd" else before.B[:, :r] @ before.A[:r]
        normalised += shares[update.client] * (delta(own) - began) / STEPS[update.client]
    return sum(shares[c] * STEPS[c] for c in shares) * normalised


def cut(matrix):
    U, S, Vh = torch.linalg.svd(matrix)
    return (U[:, :R] * S[:R]) @ Vh[:R]


@pytest.mark.parametrize("rule", [{}, {"name": "momentum", "momentum": 0.5, "lr": 0.7}])
@pytest.mark.parametrize("name", ["delta-svd", "flexlora", "ffa"])
def test_two_rounds_of_unequal_steps_and_ranks_are_those_of_the_formula(name, rule):
    of, before, running = method(name), {"q": factors(R, D_IN, D_OUT, seed=1)}, 0.0
    moved_by = optimizer(of, STEPS, **rule)
    for number in (1, 2):
        updates = trained(before["q"], of, STEPS, seed=10 * number)
        running = (0.5 * running if rule else 0.0) + change_by_hand(name, before["q"], updates)
        wanted = delta(before["q"]) + (0.7 if rule else 1.0) * running
        merge = of.aggregate(before, updates, Context("g", number, weights(updates)))
        merge = moved_by.step("g", before, merge, updates)
        torch.testing.assert_close(delta(merge.target["q"]), wanted, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(delta(merge.adapters["q"]), cut(wanted), rtol=1e-9, atol=1e-10)
        before = merge.adapters


@pytest.mark.parametrize("name", ["delta-svd", "flexlora", "ffa"])
def test_the_ledger_compares_with_the_sum_that_the_formula_means(name):
    """p_k (dW_k before + t D_k / t_k), by hand; at equal ranks it is what the group moves to."""
    of, before = method(name), {"q": factors(R, D_IN, D_OUT, seed=1)}
    updates, total = trained(before["q"], of, STEPS, seed=3), sum(OWN.values())
    share, mean = {c: own / total for c, own in OWN.items()}, sum(OWN[c] * STEPS[c] for c in OWN) / total
    wanted = torch.zeros(D_OUT, D_IN, dtype=torch.float64)
    for update in updates:
        r = RANKS[update.client]
        began = before["q"].B[:, :r] @ before["q"].A[:r]
        wanted += share[update.client] * (began + mean * (delta(update.adapters["q"]) - began) / STEPS[update.client])
    found = exact_sum("q", optimizer(of, STEPS).at_equal_steps(before, updates))
    torch.testing.assert_close(delta(found), wanted, rtol=1e-12, atol=1e-12)
    assert optimizer(of, {}).at_equal_steps(before, updates) is updates


def test_heads_are_merged_per_step_too():
    before, values = torch.zeros(2, dtype=torch.float64), {"a": [1.0, 2.0], "b": [-3.0, 1.0]}
    sent = {client: torch.tensor(value, dtype=torch.float64) for client, value in values.items()}
    given = {client: OWN[client] / STEPS[client] for client in sent}
    merged = sum(given[c] * sent[c] for c in sent) / sum(given.values())
    found = optimizer(method("delta-svd"), STEPS).step_head("g", "bias", before, merged, given)
    by_hand = (1 * 4 + 3 * 1) / 4 * (1 * sent["a"] / 4 + 3 * sent["b"] / 1) / 4
    torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=0)


def test_clients_of_equal_steps_are_merged_by_the_method_bit_for_bit():
    """Those of a round, for others of the group may take other steps."""
    of, before = method("delta-svd"), {"q": factors(R, D_IN, D_OUT, seed=1, dtype=torch.float32)}
    updates = [u for u in trained(before["q"], of, dict.fromkeys(RANKS, 1.0), seed=1) if u.client != "b"]
    plain = of.aggregate(before, updates, Context("g", 1, weights(updates)))
    found = optimizer(of, {"a": 2.0, "b": 1.0, "c": 2.0}).step("g", before, plain, updates)
    assert all(torch.equal(t, u) for t, u in zip(found.adapters["q"], plain.adapters["q"], strict=True))
    assert found.target["q"] is plain.target["q"]
