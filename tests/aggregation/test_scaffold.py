"""SCAFFOLD against the paper's algorithm in plain numpy, and where averages of clients drift."""

import numpy as np
import pytest
import torch

from atlas_cli.aggregation.client_gradients import apply_term, factors_of
from atlas_cli.aggregation.contract import delta
from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter
from atlas_cli.planning.method import load_method
from atlas_cli.wire.ledger import Ledger

D_IN, D_OUT, STEPS, RATE = 5, 4, 4, 0.05
WEIGHTS = {"a": 1.0, "b": 3.0, "c": 2.0}


def adapters(rank, alpha, dtype=torch.float64):
    draw = torch.Generator().manual_seed(1)
    made = LoRAAdapter(D_IN, D_OUT, rank, alpha, generator=draw).to(dtype)
    return AdapterSet({"q": made})


class Quadratic:
    """Clients whose loss is the sum of h (y - best)^2 / 2 over A and s B, each with an h and a best of its own."""

    def __init__(self, name, ranks, alpha=8.0, dtype=torch.float64):
        self.method = load_method(name)()
        self.held = {c: adapters(r, alpha, dtype) for c, r in ranks.items()}
        self.terms = {c: self.method.client_term() for c in ranks}
        draw = np.random.default_rng(0)
        self.h = {c: [draw.uniform(0.2, 4, s) for s in ((8, D_IN), (D_OUT, 8))] for c in ranks}
        self.best = {c: [draw.normal(size=s) for s in ((8, D_IN), (D_OUT, 8))] for c in ranks}
        members = {c: Member("g", WEIGHTS[c], self.held[c], None, term=self.terms[c]) for c in ranks}
        group = adapters(max(ranks.values()), alpha, dtype)
        self.aggregator = Aggregator(self.method, members, {"g": group}, {}, {"q": (D_IN, D_OUT)})
        self.number = 0
        self.deliver(Ledger())

    def deliver(self, ledger, clients=None):
        for client in clients or self.held:
            self.aggregator.deliver(client, ledger)

    def round(self, clients=None, rate=RATE, steps=STEPS):
        self.number, ledger = self.number + 1, Ledger()
        clients = clients or list(self.held)
        self.deliver(ledger, clients)
        for client in clients:
            adapter, term = self.held[client].adapters["q"], self.terms[client]
            optimizer = torch.optim.SGD(self.held[client].parameters(), lr=rate)
            if term is not None:
                term.begin_round(factors_of(self.held[client]))
            (h_A, h_B), (A, B) = ([torch.from_numpy(t) for t in each[client]] for each in (self.h, self.best))
            r, s = adapter.rank, adapter.scaling
            for _ in range(steps):
                optimizer.zero_grad()
                loss = (h_A[:r] * (adapter.lora_A - A[:r]) ** 2).sum() / 2
                loss = loss + (h_B[:, :r] * (s * adapter.lora_B - B[:, :r]) ** 2).sum() / 2
                loss.backward()
                if term is not None:
                    apply_term(term, self.held[client])
                optimizer.step()
        self.aggregator.merge("g", clients, ledger, self.number)
        self.deliver(ledger, clients)
        return ledger


def by_hand(case, rounds, taking_part):
    """Algorithm 1, option II, on A and B as the clients hold them, all of one rank and scale."""
    scale = case.held["a"].adapters["q"].scaling
    units = (1.0, scale)
    x = [p.detach().numpy().copy() for p in case.held["a"].parameters()]
    rank, total = len(x[0]), sum(WEIGHTS[c] for c in case.held)
    h = {c: [case.h[c][0][:rank], case.h[c][1][:, :rank]] for c in case.held}
    best = {c: [case.best[c][0][:rank], case.best[c][1][:, :rank]] for c in case.held}
    c_server = [np.zeros_like(t) for t in x]
    c_own = {c: [np.zeros_like(t) for t in x] for c in case.held}
    for number in range(rounds):
        present = taking_part(number)
        y, changes = {}, {}
        for c in present:
            y[c] = [t.copy() for t in x]
            for _ in range(STEPS):
                gradients = [s * h_i * (s * t - b) for s, h_i, t, b in zip(units, h[c], y[c], best[c], strict=True)]
                y[c] = [
                    t - RATE * (g - own + mean)
                    for t, g, own, mean in zip(y[c], gradients, c_own[c], c_server, strict=True)
                ]
            new = [
                own - mean + (t - t_k) / (STEPS * RATE)
                for own, mean, t, t_k in zip(c_own[c], c_server, x, y[c], strict=True)
            ]
            changes[c] = [n - own for n, own in zip(new, c_own[c], strict=True)]
            c_own[c] = new
        weight = sum(WEIGHTS[c] for c in present)
        x = [sum(WEIGHTS[c] / weight * y[c][i] for c in present) for i in (0, 1)]
        c_server = [c_server[i] + sum(WEIGHTS[c] / total * changes[c][i] for c in present) for i in (0, 1)]
    return x


@pytest.mark.parametrize("alpha", [3.0, 8.0])
def test_is_algorithm_1_with_option_2_of_the_paper(alpha):
    """Several rounds, of which some have absent clients; scale 1 and another one."""

    def taking_part(number):
        return [["a", "b", "c"], ["a", "c"], ["b"], ["a", "b", "c"], ["b", "c"], ["a", "b"]][number % 6]

    case = Quadratic("scaffold", dict.fromkeys("abc", 3), alpha)
    expected = by_hand(case, 12, taking_part)
    for number in range(12):
        case.round(taking_part(number))
    (group,) = case.aggregator.groups["g"].adapters.adapters.values()
    for found, wanted in zip((group.lora_A, group.lora_B), expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_clients_with_other_optima_reach_that_of_their_mean_where_averaging_stalls():
    far = {}
    for name in ("scaffold", "zero-pad"):
        case = Quadratic(name, dict.fromkeys("abc", 3), alpha=3.0)
        for _ in range(150):
            case.round(steps=10)
        (group,) = case.aggregator.groups["g"].merged.values()
        far[name] = 0.0
        for part, cut in ((0, np.s_[:3]), (1, np.s_[:, :3])):
            h = {c: WEIGHTS[c] * case.h[c][part][cut] for c in "abc"}
            optimum = sum(h[c] * case.best[c][part][cut] for c in "abc") / sum(h.values())
            far[name] = max(far[name], np.abs(group[part].detach().numpy() - optimum).max())
    assert far["scaffold"] < 1e-4
    assert far["zero-pad"] > 0.05


def test_bytes_are_those_of_two_adapters_each_way_at_every_rank():
    ranks = {"a": 1, "b": 4, "c": 2}
    case = Quadratic("scaffold", ranks, dtype=torch.float32)
    for _ in range(2):
        ledger = case.round()
        assert ledger.mismatches() == []
        for client, rank in ranks.items():
            for way in ("up", "down"):
                assert ledger.entries[client, "adapters", way].payload_bytes == 4 * 2 * rank * (D_IN + D_OUT)


def test_a_client_without_a_component_counts_as_having_no_gradient_for_it():
    """c is the padded mean of control variates by weight, also of the absent ones; clients are sent its first rows."""
    case = Quadratic("scaffold", {"a": 1, "b": 4, "c": 2})
    for clients in (["a", "b", "c"], ["b"], ["a", "c"]):
        case.round(clients)
    mean = case.method.state["g"]["q.A"]
    expected = torch.zeros(4, D_IN, dtype=torch.float64)
    for client, term in case.terms.items():
        own = term.state["own/q.A"]
        expected[: len(own)] += WEIGHTS[client] / sum(WEIGHTS.values()) * own
    torch.testing.assert_close(mean, expected)
    case.deliver(Ledger())
    assert torch.equal(case.terms["c"].state["mean/q.A"], mean[:2])


def test_without_a_step_nothing_changes():
    case = Quadratic("scaffold", dict.fromkeys("abc", 2))
    case.round()
    before, state = delta(case.aggregator.groups["g"].merged["q"]), dict(case.method.state["g"])
    case.round(steps=0)
    torch.testing.assert_close(delta(case.aggregator.groups["g"].merged["q"]), before)
    assert all(torch.equal(value, state[name]) for name, value in case.method.state["g"].items())
