"""The base class of servers, and the server of modes without a split, which takes no part in local steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from atlas_cli.config.schema.experiment import TrainingConfig
from atlas_cli.errors import AtlasError
from atlas_cli.federation.parties.measured_memory import Usage
from atlas_cli.federation.parties.trainables import PendingGradients, StepLoss, Trainables
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.storage.state_dict import StateDict, copy_into, fields_of, pop_prefix, tensors_and_values, with_prefix
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.messages import Activations, FeatureGradients, Features, Gradients


class Server:
    """A server that computes nothing of a local step.

    Attributes:
        base: the frozen base.
        groups: what it trains for each task group, or part of one in a cluster; ``heads`` and ``tasks`` likewise.
        usage: its measured memory; None where it is not measured.
        real_tokens: compute nothing for padding.
    """

    def __init__(self, base: FrozenBase, training: TrainingConfig, seed: int = 0) -> None:
        self.base, self.training, self.seed = base, training, seed
        self.groups: dict[str, Trainables] = {}
        self.heads: dict[str, nn.Module] = {}
        self.tasks: dict[str, BaseTask] = {}
        self.usage: Usage | None = None
        self.real_tokens = False

    def adapters_above(self, part: str, cut: int) -> AdapterSet:
        """Its adapters for a group, or part of one, on blocks from ``cut`` on."""
        if part not in self.groups:
            return AdapterSet({})
        upper = self.groups[part].adapters.adapters
        return AdapterSet({path: a for path, a in upper.items() if layer_of(path, self.base.family) >= cut})

    def state_dict(self) -> StateDict:
        """The trained values of each task group, or its part in a cluster, as ``<group>/...``."""
        state: StateDict = {}
        for group, trained in self.groups.items():
            state |= with_prefix(f"{group}/", trained.state_dict())
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state with the groups that there are.

        Raises:
            StateError: other groups, names, shapes or types.
        """
        state = dict(state)
        for group, trained in self.groups.items():
            with fields_of(group):
                trained.load_state_dict(pop_prefix(f"{group}/", state))
        copy_into({}, tensors_and_values(state, ())[0])

    def begin_round(self, members: Mapping[str, str], round_number: int, cuts: Mapping[str, int] | None = None) -> None:
        """As ``SplitServer.begin_round``."""

    def begin_step(self, step: int, learning_rate: float) -> None:
        """As ``SplitServer.begin_step``."""

    def answer(self, message: Activations) -> tuple[Gradients, StepLoss]:
        """As ``SplitServer.answer``."""
        raise _no_part()

    def answer_all(self, messages: Sequence[Activations]) -> list[tuple[Gradients, StepLoss]]:
        """As ``SplitServer.answer_all``."""
        raise _no_part()

    def features(self, message: Activations) -> Features:
        """As ``SplitServer.features``."""
        raise _no_part()

    def answer_gradients(self, message: FeatureGradients) -> Gradients:
        """As ``SplitServer.answer_gradients``."""
        raise _no_part()

    def accept(self, held: PendingGradients | None = None) -> None:
        """As ``SplitServer.accept``."""

    def hold(self) -> PendingGradients | None:
        """As ``SplitServer.hold``."""
        return None

    def reject(self) -> None:
        """As ``SplitServer.reject``."""

    def finish_step(self) -> None:
        """As ``SplitServer.finish_step``."""

    def finish_round(self, kept: Collection[str] | None = None) -> None:
        """As ``SplitServer.finish_round``."""

    def measure(self) -> Usage | None:
        """As ``SplitServer.measure``."""
        return None


def _no_part() -> AtlasError:
    return AtlasError("the server takes no part in local steps unless mode is split-federated")
