"""A group's adapter moves by a rule of optimizers, with the change of a merge as its gradient: FedAvgM and FedOpt.

Hsu et al. (1909.06335) and Reddi et al. (2003.00295, algorithm 2), on the product dW = B A, so that nothing depends on
how it is factored. With G the group's update before a merge, M what the method would deliver if no rank were cut, and
D = M - G:

    sgd        G <- trunc_R(G + lr D)
    momentum   m <- beta m + D,              G <- trunc_R(G + lr m)
    adaptive   m <- beta m + (1 - beta) D,   G <- trunc_R(G + lr m / (sqrt(v) + tau))
      adam     v <- beta_2 v + (1 - beta_2) q
      yogi     v <- v - (1 - beta_2) q sign(v - q)
      adagrad  v <- v + q

m and v begin at 0 (the paper: v at tau^2 or more), and no bias is corrected, as in the paper. With lr 1 and no momentum
G <- trunc_R(M), the method by itself: there is no optimizer then.

m is kept as factors of rank R_m, 2 R by default (that of a change of rank-R adapters): R_m (d_in + d_out) numbers a
layer. The step of a round uses m as it is; what is kept of it for the next round is cut to R_m, and the share of its
norm that is lost is reported. q has two forms, both the same for every factorisation:

    layer        q is the mean of D_ij^2, one number; the step is lr m / (sqrt(v) + tau)
    row-column   q are the means of D_ij^2 over each row and over each column, as in Adafactor (1804.04235). With r, c
                 their v plus tau^2, v_ij = r_i c_j / sqrt(mean(r) mean(c)): both sides of m are scaled, its rank stays

The papers' v has a number for each of d_in d_out places, and a step by it is of full rank. Moments of A and B apart
would depend on signs and order of components, which an SVD turns from round to round.

A method that trains B alone has one A for all: m is then of the shape of B, nothing is cut, and q is of the layer.
Where clients take unequal local steps, FedNova (2007.07481) has D = (sum_k p_k t_k) sum_k p_k D_k / t_k, with t_k the
steps of client k, or their sum of momenta. With weights proportional to p_k / t_k in the merge that is S (M - G), where
S = sum_k p_k t_k sum_k p_k / t_k. Where the clients of a layer took equal steps it is 1, and nothing is multiplied.

Heads that clients train move by the same rule, number by number. A group none of whose clients took part stays as it
is with its m and v, and so does a layer that nobody sent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import (
    TURNS,
    Adapters,
    BaseMethod,
    Factors,
    Layer,
    Merge,
    Shapes,
    Update,
    resized,
    truncated,
)
from atlas_cli.aggregation.error import shares
from atlas_cli.aggregation.low_rank import precise, redistribute, squared_norm, stack, weighted_sum
from atlas_cli.config.schema.aggregation import MergeOptimizerConfig
from atlas_cli.models.adapters.lora import LORA
from atlas_cli.storage.state_dict import copies, require_tensor

State = dict[str, dict[str, Tensor]]


class Rule(NamedTuple):
    """``aggregation.optimizer`` with its defaults filled in.

    Attributes:
        beta: of m; 0 where none is kept.
        gain: the factor of D in m.
        decay: beta_2.
        rank: R_m; None for 2 R.
    """

    name: str
    lr: float
    beta: float
    gain: float
    decay: float
    tau: float
    second: str
    rank: int | None

    @classmethod
    def of(cls, config: MergeOptimizerConfig) -> Self:
        """The rule of a config."""
        usual = 0.0 if config.name in ("sgd", "adagrad") else 0.9
        beta = usual if config.momentum is None else config.momentum
        return cls(
            config.name,
            1.0 if config.lr is None else config.lr,
            beta,
            1.0 if config.name in ("sgd", "momentum") else 1 - beta,
            0.99 if config.decay is None else config.decay,
            1e-6 if config.tau is None else config.tau,
            config.second or "layer",
            config.rank,
        )

    @property
    def adaptive(self) -> bool:
        """Whether a step is divided by the root of v."""
        return self.name in ("adam", "yogi", "adagrad")

    @property
    def is_plain(self) -> bool:
        """Whether a step goes to where the method does, so that there is nothing to do."""
        return not self.adaptive and self.beta == 0 and self.lr == 1

    def squares(self, before: Tensor, q: Tensor) -> Tensor:
        """v after a round."""
        if self.name == "adagrad":
            return before + q
        if self.name == "yogi":
            return before - (1 - self.decay) * q * torch.sign(before - q)
        return self.decay * before + (1 - self.decay) * q


def undefined_for(method: BaseMethod) -> str | None:
    """What a method does that leaves no change of a group's adapter to step by, after its name; None if nothing."""
    if not method.SENT:
        return "merges nothing"
    if not method.GROUP_ADAPTER:
        return "has no adapter of the group that could move"
    if method.form() != LORA:
        return "has adapters that are no factors A and B of dW"
    if method.CHANGES_BASE:
        return "merges into the frozen weights, of which clients are sent the change of a round alone"
    if len({method.parts_of(merge) for merge in TURNS}) > 1:
        return "merges A and B in turn, and a step of their product would move both"
    if "A" in method.DELIVERED and "A" not in method.TRAINED:
        return "turns the A that its clients share, with B, and a step of B alone would be of another A"
    if method.extra_tensors({"": Layer(1, 1, 1)}).at_server:
        return "keeps tensors of its own by component of the adapter, and a step gives it other components"
    return None


class MergeOptimizer:
    """The rule, and what it keeps of each group and of each part's head.

    Args:
        method: whose merges it steps by; ``undefined_for`` finds nothing against it.
        steps: t_k by client, by which weights in merges are divided (``per_step``); empty where changes are not
            normalised.

    Attributes:
        adapters: by group, and ``<path>/<tensor>`` (``shapes``).
        heads: by part, and ``<parameter>/<tensor>`` (``head_shapes``).
        truncation: of each group's last step, the share of the norm of m that was cut, over all layers.
    """

    def __init__(self, rule: Rule, method: BaseMethod, steps: Mapping[str, float] = MappingProxyType({})) -> None:
        self.rule, self._memory, self._one_A = rule, method.server_memory, "A" not in method.TRAINED
        self._steps = steps
        self.adapters: State = {}
        self.heads: State = {}
        self.truncation: dict[str, float] = {}

    def step(self, group: str, before: Adapters, merge: Merge, updates: Sequence[Update]) -> Merge:
        """The merge with the group's adapter where the rule takes it, instead of where the method does."""
        merged, target = dict(merge.adapters), dict(merge.target or merge.adapters)
        kept, cut = self.adapters.setdefault(group, {}), _Cut()
        for path, old in before.items():
            held = shares(path, updates)
            stretch = self.stretch({update.client: share for share, update in held})
            if not held or (self.rule.is_plain and stretch == 1):
                continue
            if stretch != 1:
                target[path] = _stretched(old, target[path], stretch, one_A=self._one_A)
            if self._one_A:
                B = self._stepped(kept, path, old.B, target[path].B, partial(_mean_square, old.A))
                merged[path] = target[path] = Factors(old.A, B)
            else:
                merged[path], target[path] = self._product(kept, path, old, target[path], cut)
        self.truncation[group] = cut.share
        return Merge(merged, merge.base, target)

    def step_head(
        self, part: str, name: str, before: Tensor, merged: Tensor, weights: Mapping[str, float] = MappingProxyType({})
    ) -> Tensor:
        """The value of a head's parameter after its step, merged with the ``weights`` of clients."""
        stretch = self.stretch(weights)
        if self.rule.is_plain and stretch == 1:
            return merged
        if stretch != 1:
            merged = (precise(before) + stretch * (precise(merged) - precise(before))).to(merged)
        return self._stepped(self.heads.setdefault(part, {}), name, before, merged, torch.square)

    def per_step(self, client: str, weight: float) -> float:
        """What a client of this weight, p_k, counts for in a merge: p_k / t_k."""
        return weight / self._steps[client] if client in self._steps else weight

    def at_equal_steps(self, before: Adapters, updates: list[Update]) -> list[Update]:
        """Updates as if every client had changed by D_k / t_k in each of t = sum_k p_k t_k steps, with weights p_k.

        Their sum is what FedNova means to deliver; updates themselves where changes are not normalised.
        """
        if not self._steps:
            return updates
        steps = {update.client: self._steps[update.client] for update in updates}
        adapters = {update.client: dict(update.adapters) for update in updates}
        for path, old in before.items():
            held = [update for update in updates if path in update.adapters]
            if len({steps[update.client] for update in held}) < 2:
                continue
            total = sum(update.weight * steps[update.client] for update in held)
            mean = sum(update.weight * steps[update.client] ** 2 for update in held) / total
            for update in held:
                after, by = update.adapters[path], mean / steps[update.client]
                began = (truncated({path: old}, {path: after.rank}) if update.late is None else update.late.began)[path]
                adapters[update.client][path] = _stretched(began, after, by, one_A=self._one_A)
        return [replace(u, weight=u.weight * steps[u.client], adapters=adapters[u.client]) for u in updates]

    def stretch(self, weights: Mapping[str, float]) -> float:
        """S of clients that were merged with these weights, p_k / t_k up to a factor."""
        known = [(weight, self._steps[client]) for client, weight in weights.items() if client in self._steps]
        if len({steps for _, steps in known}) < 2:
            return 1.0
        total = sum(w for w, _ in known)
        return total * sum(w * t**2 for w, t in known) / sum(w * t for w, t in known) ** 2

    def keep_only(self, groups: Collection[str], parts: Collection[str]) -> None:
        """Start anew for all groups and parts that are not named: other clients are in them now."""
        self.adapters = {name: kept for name, kept in self.adapters.items() if name in groups}
        self.heads = {name: kept for name, kept in self.heads.items() if name in parts}

    def shapes(self, layers: Mapping[str, Layer]) -> Shapes:
        """What is kept of a group with these layers."""
        found: dict[str, tuple[int, ...]] = {}
        for path, layer in layers.items():
            if self.rule.beta and self._one_A:
                found[f"{path}/mean"] = (layer.d_out, layer.rank)
            elif self.rule.beta:
                rank = self._rank(layer)
                found |= {f"{path}/mean.A": (rank, layer.d_in), f"{path}/mean.B": (layer.d_out, rank)}
            if self.rule.adaptive and self.rule.second == "row-column":
                found |= {f"{path}/rows": (layer.d_out,), f"{path}/columns": (layer.d_in,)}
            elif self.rule.adaptive:
                found[f"{path}/square"] = ()
        return found

    def head_shapes(self, head: Mapping[str, Tensor]) -> Shapes:
        """What is kept of a head with these parameters."""
        kinds = [kind for kind, kept in (("mean", self.rule.beta), ("square", self.rule.adaptive)) if kept]
        return {f"{name}/{kind}": tuple(parameter.shape) for name, parameter in head.items() for kind in kinds}

    def told(
        self, groups: Mapping[str, Mapping[str, Layer]], heads: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Shapes]:
        """The shapes of all that may be kept, by ``adapters/<group>`` and ``heads/<part>``."""
        of_groups = {f"adapters/{name}": self.shapes(layers) for name, layers in groups.items()}
        return of_groups | {f"heads/{part}": self.head_shapes(head) for part, head in heads.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that is kept: ``adapters/<group>/...`` and ``heads/<part>/...``."""
        both = (("adapters", self.adapters), ("heads", self.heads))
        return {f"{kind}/{of}/{n}": t for kind, state in both for of, kept in state.items() for n, t in kept.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of ``tensors``."""
        return copies("", self.tensors())

    def load_state_dict(self, state: Mapping[str, Tensor], told: Mapping[str, Shapes], like: Tensor) -> None:
        """Go on from a state.

        Args:
            told: the shapes of what may be kept, by ``adapters/<group>`` and ``heads/<part>``.
            like: a tensor of the type and on the device of what is kept.

        Raises:
            StateError: another name, shape or type, or a square below 0.
        """
        found: dict[str, State] = {"adapters": {}, "heads": {}}
        known = {f"{of}/{own}": (of, own, tuple(shape)) for of, shapes in told.items() for own, shape in shapes.items()}
        for name, value in state.items():
            require_tensor(name in known, name, "is of no group or head")
            of, own, shape = known[name]
            has, wanted = (f"{tuple(s)} {t.dtype}" for s, t in ((value.shape, value), (shape, like)))
            require_tensor(has == wanted, name, f"is {has}, expected {wanted}")
            square = not own.rpartition("/")[2].startswith("mean")
            require_tensor(not (square and bool((value < 0).any())), name, "is a mean of squares, and negative")
            kind, _, owner = of.partition("/")
            found[kind].setdefault(owner, {})[own] = value.to(like.device, copy=True)
        self.adapters, self.heads = found["adapters"], found["heads"]

    def _rank(self, layer: Layer) -> int:
        return min(self.rule.rank or 2 * layer.rank, layer.d_in, layer.d_out)

    def _product(
        self, kept: dict[str, Tensor], path: str, old: Factors, goal: Factors, cut: _Cut
    ) -> tuple[Factors, Factors]:
        """A layer's adapter after its step, and what it would be if no rank were cut."""
        rule, parts = self.rule, [(self.rule.gain, goal), (-self.rule.gain, old)]
        if f"{path}/mean.A" in kept:
            parts.append((rule.beta, Factors(kept[f"{path}/mean.A"], kept[f"{path}/mean.B"])))
        mean = weighted_sum(parts, self._memory)
        if rule.beta:
            rank = self._rank(Layer(old.rank, old.A.shape[1], old.B.shape[0]))
            root = mean.S[:rank].sqrt()
            A, B = root[:, None] * mean.Vh[:rank], mean.U[:, :rank] * root
            kept[f"{path}/mean.A"] = resized(A, (rank, A.shape[1])).to(old.A.dtype)
            kept[f"{path}/mean.B"] = resized(B, (len(B), rank)).to(old.B.dtype)
            cut.add(mean.S, rank)
        step = self._divided(kept, path, mean.factors, old, goal) if rule.adaptive else mean.factors
        whole = weighted_sum([(1.0, old), (rule.lr, step)], self._memory)
        return redistribute(whole, old), whole.factors

    def _divided(self, kept: dict[str, Tensor], path: str, mean: Factors, old: Factors, goal: Factors) -> Factors:
        """m / sqrt(v) of a layer."""
        rule, change = self.rule, weighted_sum([(1.0, goal), (-1.0, old)], self._memory)
        left, right = change.U * change.S, change.S[:, None] * change.Vh
        d_out, d_in = len(left), right.shape[1]
        if rule.second == "layer":
            v = self._squares(kept, f"{path}/square", change.S.square().sum() / (d_out * d_in), old.A.dtype)
            return Factors(mean.A, mean.B / (v.sqrt() + rule.tau))
        rows = self._squares(kept, f"{path}/rows", left.square().sum(1) / d_in, old.A.dtype) + rule.tau**2
        columns = self._squares(kept, f"{path}/columns", right.square().sum(0) / d_out, old.A.dtype) + rule.tau**2
        both = (rows.mean() * columns.mean()) ** 0.25
        return Factors(mean.A / columns.sqrt(), both * mean.B / rows.sqrt()[:, None])

    def _stepped(
        self, kept: dict[str, Tensor], name: str, before: Tensor, merged: Tensor, q: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """A tensor after a step number by number, whose q is a function of its change."""
        rule, old = self.rule, precise(before)
        change = precise(merged) - old
        step = rule.gain * change
        if f"{name}/mean" in kept:
            step = step + rule.beta * precise(kept[f"{name}/mean"])
        if rule.beta:
            kept[f"{name}/mean"] = step.to(merged.dtype)
        if rule.adaptive:
            step = step / (self._squares(kept, f"{name}/square", q(change), merged.dtype).sqrt() + rule.tau)
        return (old + rule.lr * step).to(before)

    def _squares(self, kept: dict[str, Tensor], name: str, q: Tensor, dtype: torch.dtype) -> Tensor:
        """v after this round, which is kept."""
        v = self.rule.squares(precise(kept[name]) if name in kept else torch.zeros_like(q), q)
        kept[name] = v.to(dtype)
        return v


def _stretched(old: Factors, goal: Factors, by: float, *, one_A: bool) -> Factors:
    """G + S (M - G)."""
    if one_A:
        return Factors(goal.A, precise(old.B) + by * (precise(goal.B) - precise(old.B)))
    return stack([(by, goal), (1 - by, old)])


class _Cut:
    """How much of the norms of several matrices is cut."""

    def __init__(self) -> None:
        self._cut = self._whole = 0.0

    def add(self, singular_values: Tensor, rank: int) -> None:
        """A matrix of which ``rank`` components are kept."""
        self._cut += float(singular_values[rank:].square().sum())
        self._whole += float(singular_values.square().sum())

    @property
    def share(self) -> float:
        """Of all matrices together."""
        return (self._cut / self._whole) ** 0.5 if self._whole > 0 else 0.0


def _mean_square(A: Tensor, B: Tensor) -> Tensor:
    """The mean square of the numbers of B A, 0-d."""
    return B.new_tensor(squared_norm(Factors(A, B)) / (A.shape[1] * len(B)))
