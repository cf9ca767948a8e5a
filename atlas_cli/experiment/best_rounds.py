"""The best round of each task group on its validation part: its models are kept, and training may end by it.

A round is better than those before it where the primary metric of the group's task is, in the direction that the task
declares; of equal ones the first is kept. Training ends (``training.early_stopping``) when no group has improved on its
own best for ``patience`` evaluations: units of metrics differ, so that a mean over groups would mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from atlas_cli.experiment.recorder import Scores
from atlas_cli.experiment.whole_adapters import fold_base_change
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.party import TrainedModel
from atlas_cli.reports.summary import is_better
from atlas_cli.storage.state_dict import (
    StateDict,
    is_count,
    require_tensor,
    require_value,
    tensors_and_values,
    with_prefix,
)

ADAPTERS, HEAD = "adapters/", "head/"
Kept = dict[str, Tensor]  # the tensors of a model: adapters/<path>.lora_A, adapters/<path>.lora_B, head/<name>


@dataclass
class Best:
    """The best round of a group.

    Attributes:
        round, value: where the metric was best, and what it was; None before there was a finite one.
        reference: the value that the next has to be better than, by more than ``min_delta``, to count as improved.
        since: evaluations since the group last improved.
        models: those of the round, ``groups/<name>`` or, where clients share none, ``clients/<name>``.
    """

    round: int | None = None
    value: float | None = None
    reference: float | None = None
    since: int = 0
    models: dict[str, Kept] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """All but the models."""
        return {name: value for name, value in asdict(self).items() if name != "models"}


_VALUES = [each.name for each in fields(Best) if each.name != "models"]


class BestRounds:
    """The best rounds of all groups that have a validation part, as a part of the run's state.

    Attributes:
        groups: by task group; empty where no group has a validation part.
        ended: training ended by the last evaluation.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation, self.ended = federation, False
        self.groups = {name: Best() for name, group in federation.data.items() if group.validation}

    def after(self, number: int, scores: Scores) -> bool:
        """Take in an evaluation; whether training ends with it."""
        for group, best in self.groups.items():
            if group in scores.validation:
                self._take(group, best, number, scores.validation[group])
        self.ended = self._exhausted
        return self.stops

    @property
    def stops(self) -> bool:
        """Whether training has ended by ``training.early_stopping``; a larger patience lets it go on."""
        return self.ended and self._exhausted

    @property
    def since(self) -> int:
        """Evaluations since any group last improved."""
        return min((best.since for best in self.groups.values()), default=0)

    @property
    def _exhausted(self) -> bool:
        rule = self.federation.config.training.early_stopping
        return rule is not None and self.since >= rule.patience

    def sentence(self) -> str:
        """Why training ended."""
        who = "no task group has" if len(self.groups) > 1 else f"{next(iter(self.groups))} has not"
        times = f"{self.since} evaluation{'s' * (self.since != 1)}"
        return f"{who} improved on its validation part for {times} (training.early_stopping)"

    def state_dict(self) -> StateDict:
        """``best`` by group, ``ended``, and the tensors of the models as ``<group>/<model>/...``."""
        best_of_groups = {group: best.record() for group, best in self.groups.items()}
        state: StateDict = {"best": best_of_groups, "ended": self.ended}
        for group, best in self.groups.items():
            for model, tensors in best.models.items():
                state |= with_prefix(f"{group}/{model}/", tensors)
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state.

        Raises:
            StateError: other groups, or a model that no group can have.
        """
        tensors, values = tensors_and_values(state, ["best", "ended"])
        require_value(isinstance(values["ended"], bool), "ended", "is neither true nor false")
        saved = values["best"]
        known = isinstance(saved, Mapping) and saved.keys() == self.groups.keys()
        require_value(known, "best", f"is not of the groups {', '.join(self.groups)}")
        groups = {group: _checked(saved[group], f"best.{group}") for group in self.groups}
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            kind, owner, own = (*rest.split("/", 2), "", "")[:3]
            require_tensor(group in groups and self._is_owner(group, kind, owner), name, "is of no group's best round")
            groups[group].models.setdefault(f"{kind}/{owner}", {})[own] = value
        for group, best in groups.items():
            require_value((best.round is None) == (not best.models), f"best.{group}", "has a round or models alone")
            shapes = self._head_shapes(group)
            for model, kept in best.models.items():
                self._check_model(kept, shapes, f"{group}/{model}")
        self.groups, self.ended = groups, values["ended"]

    def _take(self, group: str, best: Best, number: int, figures: Mapping[str, float]) -> None:
        task = self.federation.data[group].task
        value, better = figures[task.primary_metric], task.better[task.primary_metric]
        rule = self.federation.config.training.early_stopping
        best.since += 1
        if not math.isfinite(value):
            return
        if best.reference is None or is_better(value, best.reference, better, rule.min_delta if rule else 0.0):
            best.reference, best.since = value, 0
        if best.value is None or is_better(value, best.value, better):
            best.round, best.value = number, value
            best.models = {name: self._kept(model) for name, model in self.federation.scored_models(group)}

    def _kept(self, model: TrainedModel) -> Kept:
        """Copies of everything that a prediction needs, a change of the base folded into the adapters."""
        adapters = fold_base_change(self.federation, model.adapters).state()
        head = {name: p.detach() for name, p in model.head.named_parameters() if p.requires_grad}
        named = {**with_prefix(ADAPTERS, adapters), **with_prefix(HEAD, head)}
        return {name: tensor.to("cpu", copy=True) for name, tensor in named.items()}

    def _is_owner(self, group: str, kind: str, owner: str) -> bool:
        if kind == "groups":  # clusters of an earlier round may have had other names
            return owner == group or owner.startswith(f"{group}.")
        return kind == "clients" and owner in self.federation.members(group)

    def _head_shapes(self, group: str) -> dict[str, torch.Size]:
        _, model = next(iter(self.federation.scored_models(group)))
        return {f"{HEAD}{name}": p.shape for name, p in model.head.named_parameters() if p.requires_grad}

    def _check_model(self, kept: Kept, head: Mapping[str, torch.Size], where: str) -> None:
        own = {name: value.shape for name, value in kept.items() if not name.startswith(ADAPTERS)}
        require_tensor(own == head, where, "has not the tensors of the group's head")
        for name, value in kept.items():
            path, _, part = name.removeprefix(ADAPTERS).rpartition(".")
            if name in head:
                continue
            known = path in self.federation.plan.features and part in ("lora_A", "lora_B") and value.dim() == 2
            require_tensor(known, f"{where}/{name}", "is of no adapter")
            other = kept.get(f"{ADAPTERS}{path}.{'lora_B' if part == 'lora_A' else 'lora_A'}")
            d_in, d_out = self.federation.plan.features[path]
            rank = len(value) if part == "lora_A" else value.shape[1]
            shapes = {"lora_A": (rank, d_in), "lora_B": (d_out, rank)}
            fits = 1 <= rank <= min(d_in, d_out) and value.shape == shapes[part]
            paired = other is not None and other.shape == shapes["lora_B" if part == "lora_A" else "lora_A"]
            require_tensor(fits and paired, f"{where}/{name}", f"has shape {tuple(value.shape)}")


def _checked(saved: Any, where: str) -> Best:
    require_value(isinstance(saved, Mapping) and list(saved) == _VALUES, where, f"is not {', '.join(_VALUES)}")
    best = Best(**saved)
    require_value(best.round is None or is_count(best.round), f"{where}.round", "is no round")
    require_value(is_count(best.since), f"{where}.since", "is no whole number")
    for name in ("value", "reference"):
        value = getattr(best, name)
        fits = value is None if best.round is None else isinstance(value, float) and math.isfinite(value)
        require_value(fits, f"{where}.{name}", "is no finite number" if best.round is not None else "is of no round")
    return best
