"""Learning rules of the field are one class each: FedProx and a server optimizer, with nothing but the contract."""

import torch

from atlas_cli.aggregation.contract import PARTS, BaseMethod, ClientTerm, ExtraTensors, Factors, Merge
from atlas_cli.aggregation.padding import padded_means
from atlas_cli.config.schema.section import Section
from atlas_cli.testing.methods import conformance
from atlas_cli.testing.toy_clients import LAYERS, ToyGroup


def named(adapters):
    return {f"{path}.{part}": t for path, f in adapters.items() for part, t in zip(PARTS, f, strict=True)}


def shapes_of(layers):
    return {f"{p}.A": (x.rank, x.d_in) for p, x in layers.items()} | {
        f"{p}.B": (x.d_out, x.rank) for p, x in layers.items()
    }


class Proximal(ClientTerm):
    """mu / 2 times the squared distance from what was delivered."""

    def __init__(self, mu):
        super().__init__()
        self._mu = mu

    def begin_round(self, adapters):
        self.state = {name: value.clone() for name, value in named(adapters).items()}

    def penalty(self, adapters):
        return self._mu / 2 * sum((t - self.state[n]).square().sum() for n, t in named(adapters).items())


class FedProx(BaseMethod):
    """Li et al., 1812.06127, eq. 2."""

    class Options(Section):
        mu: float = 0.1

    def aggregate(self, current, updates, context):
        return Merge(padded_means(current, updates))

    def client_term(self):
        return Proximal(self.options.mu) if self.options.mu else None

    def extra_tensors(self, layers):
        return ExtraTensors(at_client=shapes_of(layers))


class FedAdam(BaseMethod):
    """Reddi et al., 2003.00295, algorithm 2, on padded factors."""

    FIXED_POINT = False

    def aggregate(self, current, updates, context):
        mean, state, merged = padded_means(current, updates), self.state.setdefault(context.group, {}), {}
        for path, before in current.items():
            parts = []
            for part, old, new in zip(PARTS, before, mean[path], strict=True):
                m, v = (state.get(f"{path}.{part}.{name}", torch.zeros_like(old)) for name in "mv")
                m, v = 0.9 * m + 0.1 * (new - old), 0.99 * v + 0.01 * (new - old) ** 2
                state |= {f"{path}.{part}.m": m, f"{path}.{part}.v": v}
                parts.append(old + 0.1 * m / (v.sqrt() + 1e-3))
            merged[path] = Factors(*parts)
        return Merge(merged)

    def regroup(self, shares):
        self.state = {}  # moments start anew

    def extra_tensors(self, layers):
        return ExtraTensors(at_server={f"{n}.{k}": shape for n, shape in shapes_of(layers).items() for k in "mv"})


TestFedProx = conformance(FedProx)
TestFedAdam = conformance(FedAdam)


def test_the_gradient_of_the_penalty_is_mu_times_the_distance():
    """In a step from the delivered adapter there is none, later it pulls back; mu = 0 equals none."""
    found = {}
    for mu in (0.0, 0.5):
        group = ToyGroup(FedProx(FedProx.Options(mu=mu)), {"a": 4}, steps=1, dtype=torch.float64, alpha=4.0)
        group.round()
        if group.terms["a"] is not None:
            group.terms["a"].begin_round(group.current)
        start = {name: value.clone() for name, value in named(group.current).items()}
        moved = []
        for _ in range(2):
            before = {n: t.detach().clone() for n, t in group.held["a"].state().items()}
            group.step("a")
            moved.append({n: t - before[n] for n, t in group.held["a"].state().items()})
        found[mu] = moved, before, start
    (plain, _, _), (pulled, second, start) = found[0.0], found[0.5]
    for path in LAYERS:
        for part in PARTS:
            name = f"{path}.lora_{part}"
            torch.testing.assert_close(pulled[0][name], plain[0][name])  # nothing to pull back from
            distance = second[name] - start[f"{path}.{part}"]  # scale 1: alpha is the rank
            torch.testing.assert_close(pulled[1][name], plain[1][name] - 0.05 * 0.5 * distance)
