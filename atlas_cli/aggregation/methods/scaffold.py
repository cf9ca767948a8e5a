"""SCAFFOLD (Karimireddy et al., 1910.06378, algorithm 1, option II) on the factors of adapters: no client drift.

Averages of clients whose data differ drift away from what is best for all, the more local steps they take. Here each
client k has a control variate c_k, how its own gradient looks, and the server has their mean c. A local step goes by

    g_k(y) - c_k + c,  and after K steps:  c_k <- c_k - c + (x - y_k) / (K eta),  c <- c + sum_k p_k (c_k - c_k before)

with x what the client was delivered, y_k what it trained, and p_k its weight among all clients of the group that hold
the layer, the absent ones, too. (x - y_k) / (K eta) + c_k - c is the mean of g_k over the steps, and is computed as
that mean, so that it is the same with momentum, Adam, clipping and a schedule of rates, where the formula is not
defined. With them, corrected gradients are what the optimizer sees. Control variates begin at 0. Adapters are merged as
``zero-pad`` does, with the server's rate at 1.

Factors are scale-free: variates are of A and of s B, in which clients of unequal alpha and rank move alike. Ranks may
differ: a client of rank r has variates of the first r rows of A and columns of B, is sent the first r of c, and counts
as having gradient 0 beyond, as its values count as 0 in the merge. So components that few clients hold are corrected
towards the mean over all clients of the layer, which pulls less than the few themselves would.

Uplink: r_k (d_in + d_out) elements a layer and as many for the change of c_k; downlink: the same with c. A client keeps
c_k, c, and the sum of a round's gradients. The frozen base is not changed; absent clients keep what they hold; moments
of A and B are reset by a delivery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import (
    PARTS,
    Adapters,
    BaseMethod,
    ClientTerm,
    Context,
    ExtraTensors,
    Factors,
    Layer,
    Merge,
    Shapes,
    Update,
    resized,
)
from atlas_cli.aggregation.padding import padded_means


class Method(BaseMethod):
    """Averages padded factors of clients whose gradients are corrected by control variates."""

    KEEPS_COMPONENTS = True
    CUTS_MAY_DIFFER = False  # the server has no control variate of the layers that it holds for some

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """The averaged adapter; c is updated by the changes of the clients that took part."""
        control = self.state.setdefault(context.group, {})
        for path, before in current.items():
            total = sum(context.weights.get(path, {}).values())
            for part, like in zip(PARTS, before, strict=True):
                name = f"{path}.{part}"
                mean = resized(control[name], like.shape) if name in control else torch.zeros_like(like)
                for update in updates:
                    if path in update.adapters:
                        mean += update.weight / total * resized(update.extras[name], like.shape)
                control[name] = mean
        return Merge(padded_means(current, updates))

    def client_term(self) -> ClientTerm:
        """A new control variate for a client."""
        return _Control()

    def extra_tensors(self, layers: Mapping[str, Layer]) -> ExtraTensors:
        """Each variate has the shapes of an adapter."""
        one: dict[str, tuple[int, ...]] = {}
        for path, layer in layers.items():
            one |= {f"{path}.A": (layer.rank, layer.d_in), f"{path}.B": (layer.d_out, layer.rank)}
        kept: Shapes = {f"{kind}/{name}": shape for kind in ("own", "mean", "sum") for name, shape in one.items()}
        return ExtraTensors(up=one, down=one, at_client={**kept, "steps": ()}, at_server=one)

    def extras_for(self, group: str, layers: Mapping[str, Layer]) -> dict[str, Tensor]:
        """The first r rows and columns of c, the mean of the control variates."""
        control, shapes = self.state.get(group, {}), self.extra_tensors(layers).down
        return {
            name: resized(control[name], shape) if name in control else torch.zeros(shape)
            for name, shape in shapes.items()
        }


class _Control(ClientTerm):
    """c_k as ``own/<path>.A``, c as ``mean/...``, and within a round the ``sum/...`` of gradients over ``steps``."""

    def receive(self, extras: Mapping[str, Tensor]) -> None:
        self.state |= {f"mean/{name}": value for name, value in extras.items()}

    def begin_round(self, adapters: Adapters) -> None:
        for name, value in _by_name(adapters).items():
            for kind in ("own", "mean"):
                self.state.setdefault(f"{kind}/{name}", torch.zeros_like(value))
            self.state[f"sum/{name}"] = torch.zeros_like(value)
        self.state["steps"] = torch.zeros(())

    def corrected(self, gradients: Adapters) -> Adapters:
        self.state["steps"] = self.state["steps"] + 1
        changed = {}
        for name, gradient in _by_name(gradients).items():
            self.state[f"sum/{name}"] += gradient
            changed[name] = gradient - self.state[f"own/{name}"] + self.state[f"mean/{name}"]
        return {path: Factors(*(changed[f"{path}.{part}"] for part in PARTS)) for path in gradients}

    def end_round(self, adapters: Adapters) -> dict[str, Tensor]:
        steps, change = self.state.pop("steps"), {}
        for name in _by_name(adapters):
            total = self.state.pop(f"sum/{name}")
            if steps > 0:
                own = total / steps
                change[name] = own - self.state[f"own/{name}"]
                self.state[f"own/{name}"] = own
            else:
                change[name] = total
        return change


def _by_name(adapters: Adapters) -> dict[str, Tensor]:
    return {f"{path}.{part}": t for path, f in adapters.items() for part, t in zip(PARTS, f, strict=True)}
