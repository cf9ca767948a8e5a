"""Groups that move by rules of optimizers: against dense matrices, at unequal ranks, whatever the factors."""

import pytest
import torch
from support.merging import factors, method, weights

from atlas_cli.aggregation.contract import Context, Factors, Update, delta
from atlas_cli.aggregation.merge_optimizer import MergeOptimizer, Rule
from atlas_cli.config.schema.aggregation import MergeOptimizerConfig
from atlas_cli.storage.state_dict import StateError

D_IN, D_OUT, R = 6, 7, 3
RANKS, WEIGHTS = {"a": 3, "b": 1, "c": 2}, {"a": 1.0, "b": 3.0, "c": 2.0}
COHORTS = ["abc", "bc", "ab", "abc"]
ADAPTIVE = {"lr": 0.05, "tau": 1e-3}
RULES = {
    "sgd": {"lr": 0.5},
    "momentum": {"momentum": 0.8, "lr": 0.7},
    "adam": {**ADAPTIVE, "momentum": 0.6, "decay": 0.9},
    "yogi": {**ADAPTIVE, "second": "row-column", "decay": 0.9},
    "adagrad": ADAPTIVE,
}


def optimizer(of, **given):
    return MergeOptimizer(Rule.of(MergeOptimizerConfig.model_validate(given)), of)


def trained(before, number, clients, ranks=RANKS, path="q"):
    """What clients made of the first rows and columns of the group's adapter in a round."""
    updates = []
    for client in clients:
        r, noise = ranks[client], factors(R, D_IN, D_OUT, seed=100 * number + ord(client))
        held = Factors(before.A[:r] + 0.1 * noise.A[:r], before.B[:, :r] + 0.1 * noise.B[:, :r])
        updates.append(Update(client, WEIGHTS[client], {path: held}))
    return updates


def moved(of, rule, before, updates, number=1):
    merge = of.aggregate(before, updates, Context("g", number, weights(updates)))
    return merge if rule is None else rule.step("g", before, merge, updates)


def changed_by(name, before, updates):
    """D in full."""
    total = sum(u.weight for u in updates)
    found = torch.zeros(D_OUT, D_IN, dtype=torch.float64)
    for u in updates:
        r, own = u.adapters["q"].rank, delta(u.adapters["q"])
        start = delta(before) if name == "flexlora" else before.B[:, :r] @ before.A[:r]
        found += u.weight / total * (own - start)
    return found


class Dense:
    """The rules on matrices, number by number, and means of squares over a layer or over rows and columns."""

    def __init__(self, name, lr=1.0, momentum=None, decay=0.99, tau=1e-6, second="layer"):
        self.name, self.lr, self.decay, self.tau, self.second = name, lr, decay, tau, second
        self.beta = {"sgd": 0.0, "adagrad": 0.0}.get(name, 0.9) if momentum is None else momentum
        self.m, self.v = 0.0, None

    def step(self, D):
        plain = self.name in ("sgd", "momentum")
        self.m = self.beta * self.m + (1 if plain else 1 - self.beta) * D
        if plain:
            return self.lr * self.m
        squares = [(D**2).mean()] if self.second == "layer" else [(D**2).mean(1), (D**2).mean(0)]
        self.v = [torch.zeros_like(q) for q in squares] if self.v is None else self.v
        for v, q in zip(self.v, squares, strict=True):
            if self.name == "adagrad":
                v += q
            elif self.name == "yogi":
                v -= (1 - self.decay) * q * torch.sign(v - q)
            else:
                v.mul_(self.decay).add_((1 - self.decay) * q)
        if self.second == "layer":
            return self.lr * self.m / (self.v[0].sqrt() + self.tau)
        r, c = (v + self.tau**2 for v in self.v)
        return self.lr * self.m / torch.sqrt(torch.outer(r, c) / torch.sqrt(r.mean() * c.mean()))


def cut(matrix, rank):
    U, S, Vh = torch.linalg.svd(matrix)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("of", ["delta-svd", "flexlora"])
def test_rounds_at_unequal_ranks_are_those_of_the_rule_on_dense_matrices(of, name):
    """In float64, with clients absent in some rounds; m at twice the rank is whole here, min(d_in, d_out) = 2 R."""
    merging, dense = method(of), Dense(name, **RULES[name])
    rule, before = optimizer(merging, name=name, **RULES[name]), {"q": factors(R, D_IN, D_OUT, seed=1)}
    for number, clients in enumerate(COHORTS, 1):
        updates = trained(before["q"], number, clients)
        wanted = delta(before["q"]) + dense.step(changed_by(of, before["q"], updates))
        merge = moved(merging, rule, before, updates, number)
        torch.testing.assert_close(delta(merge.target["q"]), wanted, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(delta(merge.adapters["q"]), cut(wanted, R), rtol=1e-9, atol=1e-10)
        assert rule.truncation["g"] < 1e-12
        before = merge.adapters


def algorithm_2(name, changes, start, lr=0.05, beta_1=0.6, beta_2=0.9, tau=1e-6):
    """Reddi et al. (2003.00295), algorithm 2, line by line, number by number."""
    x, m, v = 0.0, 0.0, start
    for change in changes:
        m = beta_1 * m + (1 - beta_1) * change
        if name == "adagrad":
            v = v + change**2
        elif name == "yogi":
            v = v - (1 - beta_2) * change**2 * torch.sign(v - change**2)
        else:
            v = beta_2 * v + (1 - beta_2) * change**2
        x = x + lr * m / (torch.sqrt(v) + tau)
    return x


@pytest.mark.parametrize("name", ["adam", "yogi", "adagrad"])
def test_a_layer_of_one_number_and_heads_move_by_the_papers_algorithm(name):
    """Where v is of each number, too. The paper's v begins at tau^2, which is not seen where changes are large."""
    draw = torch.Generator().manual_seed(4)
    changes = [0.1 + torch.rand(1, generator=draw, dtype=torch.float64) for _ in range(4)]
    given = {"lr": 0.05, "momentum": 0.6, "tau": 1e-6, **({} if name == "adagrad" else {"decay": 0.9})}
    zero, tau_squared = (algorithm_2(name, changes, torch.full((1,), v).double()) for v in (0.0, 1e-12))
    merging, head = method("flexlora"), torch.zeros(1, dtype=torch.float64)
    rule, one = optimizer(merging, name=name, **given), torch.ones(1, 1, dtype=torch.float64)
    before = {"q": Factors(one, 0 * one)}
    for change in changes:
        sent = Factors(before["q"].A, (delta(before["q"]) + change) / before["q"].A)
        before = moved(merging, rule, before, [Update("a", 1.0, {"q": sent})]).adapters
        head = rule.step_head("g", "bias", head, head + change)
    torch.testing.assert_close(delta(before["q"])[0], zero, rtol=1e-12, atol=0)
    torch.testing.assert_close(head, zero, rtol=1e-12, atol=0)
    torch.testing.assert_close(head, tau_squared, rtol=1e-8, atol=0)


def test_a_running_sum_is_cut_to_its_rank_and_the_loss_is_told():
    merging, dense = method("delta-svd"), Dense("momentum", momentum=0.8)
    rule, before = optimizer(merging, name="momentum", momentum=0.8, rank=2), {"q": factors(R, D_IN, D_OUT, seed=1)}
    for number in (1, 2, 3):
        updates = trained(before["q"], number, "abc")
        wanted = delta(before["q"]) + dense.step(changed_by("delta-svd", before["q"], updates))
        before = moved(merging, rule, before, updates, number).adapters
        torch.testing.assert_close(delta(before["q"]), cut(wanted, R), rtol=1e-9, atol=1e-10)
        lost = (dense.m - cut(dense.m, 2)).norm() / dense.m.norm()
        assert lost > 0.05 and rule.truncation["g"] == pytest.approx(float(lost), rel=1e-9)
        dense.m = cut(dense.m, 2)


@pytest.mark.parametrize("name", ["momentum", "adam", "yogi"])
def test_steps_are_the_same_in_every_factorisation(name):
    """Clients and group in other coordinates of the same products, which all clients of one rank share."""
    found = []
    for seed in (None, 5):
        merging = method("delta-svd")
        rule, before = optimizer(merging, name=name, **RULES[name]), {"q": factors(R, D_IN, D_OUT, seed=1)}
        for number in (1, 2):
            updates = trained(before["q"], number, "abc", dict.fromkeys("abc", R))
            if seed is not None:
                turn = torch.randn(R, R, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
                turned = [{"q": Factors(torch.linalg.solve(turn, f.A), f.B @ turn)} for f in _all(before, updates)]
                before, updates = (
                    turned[0],
                    [Update(u.client, u.weight, t) for u, t in zip(updates, turned[1:], strict=True)],
                )
            before = moved(merging, rule, before, updates, number).adapters
        found.append(delta(before["q"]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-10)


def _all(before, updates):
    return [before["q"], *(u.adapters["q"] for u in updates)]


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_shared_A_stays_and_B_moves_by_the_rule(name):
    merging, dense = method("ffa"), Dense(name, **RULES[name])
    rule, before = optimizer(merging, name=name, **RULES[name]), {"q": factors(R, D_IN, D_OUT, seed=1)}
    A = before["q"].A
    for number, clients in enumerate(COHORTS, 1):
        updates = [
            Update(u.client, u.weight, {"q": Factors(A[: u.adapters["q"].rank], u.adapters["q"].B)})
            for u in trained(before["q"], number, clients)
        ]
        plain = moved(merging, None, before, updates).adapters["q"]
        wanted = delta(before["q"]) + dense.step(delta(plain) - delta(before["q"]))
        before = moved(merging, rule, before, updates, number).adapters
        torch.testing.assert_close(delta(before["q"]), wanted, rtol=1e-9, atol=1e-10)
        assert before["q"].A is A


def test_a_step_of_one_without_momentum_goes_where_the_method_goes():
    """Such a rule is left out of a run; were it there, the result would be the same to rounding."""
    for name in ("delta-svd", "flexlora", "zero-pad", "hetlora", "lora-fair", "trimmed-mean", "median", "ffa"):
        merging, before = method(name), {"q": factors(R, D_IN, D_OUT, seed=1)}
        rule = optimizer(merging)
        assert rule.rule.is_plain
        updates = trained(before["q"], 1, "abc")
        plain = moved(merging, None, before, updates)
        found = moved(merging, rule, before, updates)
        torch.testing.assert_close(delta(found.adapters["q"]), delta(plain.adapters["q"]), rtol=1e-9, atol=1e-9)


def test_a_layer_that_nobody_sent_stays_with_what_is_kept_of_it():
    merging, layers = method("delta-svd"), {p: factors(R, D_IN, D_OUT, seed=i) for i, p in enumerate("qv")}
    rule = optimizer(merging, name="adam", lr=0.1)
    both = [
        Update(u.client, u.weight, {**u.adapters, **v.adapters})
        for u, v in zip(trained(layers["q"], 1, "ab"), trained(layers["v"], 2, "ab", path="v"), strict=True)
    ]
    before = moved(merging, rule, layers, both).adapters
    kept = {name: value.clone() for name, value in rule.adapters["g"].items() if name.startswith("v/")}
    after = moved(merging, rule, before, trained(before["q"], 3, "ab"), 2).adapters
    assert all(torch.equal(t, u) for t, u in zip(after["v"], before["v"], strict=True))
    assert kept and all(torch.equal(rule.adapters["g"][name], value) for name, value in kept.items())


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("adapters/g/q/square", torch.tensor(-1.0), "negative"),
        ("adapters/g/q/square", torch.zeros(2), "expected"),
        ("adapters/h/q/square", torch.tensor(1.0), "no group"),
        ("heads/g/weight/mean", torch.zeros(2, 2, dtype=torch.float64), "expected"),
    ],
)
def test_a_forged_state_is_refused(name, value, why):
    rule = optimizer(method("delta-svd"), name="adam", lr=0.1)
    told = {"adapters/g": {"q/square": ()}, "heads/g": {"weight/mean": (2, 2)}}
    with pytest.raises(StateError, match=why):
        rule.load_state_dict({name: value}, told, torch.zeros(1))
