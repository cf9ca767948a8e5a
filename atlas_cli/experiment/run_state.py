"""The state of a run, and its checkpoints: that of its parts, by name.

It holds everything that does not follow from config, seed and round. Noise, cohorts and faults are functions of seed,
client and round, and so are times of rounds; of protection only a budget has a state: who is frozen since when. Clients
under way have one, and the virtual clock where a device has a trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atlas_cli.clustering.clusters import Clusters
from atlas_cli.errors import ResourceError
from atlas_cli.experiment.best_rounds import BestRounds
from atlas_cli.experiment.saved_clients import SavedClients
from atlas_cli.federation.federation import Federation
from atlas_cli.runs.checkpoint import Checkpoint, save_checkpoint
from atlas_cli.runs.record_files import RecordFiles
from atlas_cli.storage.state_dict import (
    StateDict,
    StateError,
    Stateful,
    fields_of,
    require_tensor,
    require_value,
)

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class RunState:
    """The parts of a federation that have a state.

    One object serves all checkpoints of a run, so that each hashes only the clients used since the last one.

    Attributes:
        parts: in the order in which they are restored: clusters say which groups there are, and groups which versions.
        best: the best rounds of groups with a validation part; a part only where there are any.
    """

    def __init__(self, federation: Federation) -> None:
        self.parts: dict[str, Stateful] = {}
        if federation.config.clustering is not None:
            self.parts["clusters"] = Clusters(federation, federation.config.clustering)
        self.parts["server"] = federation.server
        self.parts["aggregator"] = federation.aggregator
        self.parts["clients"] = SavedClients(federation)
        if federation.under_way is not None:
            self.parts["under_way"] = federation.under_way
            if federation.config.training.server_update == "per-client":
                self.parts["server_copies"] = federation.server.copies
        elif federation.clock is not None:
            self.parts["clock"] = federation.clock
        if federation.protection.budget is not None:
            self.parts["budget"] = federation.protection.budget
        self.best = BestRounds(federation)
        if self.best.groups:
            self.parts["best"] = self.best

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The present state: tensors as ``<part>/<name>``, and JSON values by part and name."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, dict[str, Any]] = {}
        for part, owner in self.parts.items():
            state = owner.state_dict()
            values[part] = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
            tensors |= {f"{part}/{name}": value for name, value in state.items() if isinstance(value, Tensor)}
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Any, where: str = "the checkpoint") -> None:
        """Restore a freshly built federation from captured ``tensors`` and ``values``.

        Args:
            where: their source, for messages.

        Raises:
            ResourceError: the state is not that of this federation; names the field.
        """
        try:
            states = self._by_part(tensors, values)
            for part, owner in self.parts.items():
                with fields_of(part):
                    owner.load_state_dict(states[part])
        except StateError as error:
            raise ResourceError(f"{where} is not of this experiment: {error}") from error
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            # what another library says of a state that passed all checks and still does not fit
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
            raise ResourceError(f"{where} is not of this experiment: {why}") from error

    def _by_part(self, tensors: Mapping[str, Tensor], values: Any) -> dict[str, StateDict]:
        known = isinstance(values, Mapping) and values.keys() == self.parts.keys()
        require_value(known, "it", f"has other parts than {', '.join(self.parts)}")
        for part, own in values.items():
            require_value(isinstance(own, Mapping), part, "is no mapping")
        states: dict[str, StateDict] = {part: dict(own) for part, own in values.items()}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            require_tensor(part in states, name, "is of no part")
            require_value(rest not in states[part], f"{part}.{rest}", "is a tensor's")
            require_tensor(value.dtype in _DTYPES, name, f"has type {value.dtype}")
            require_tensor(bool(value.isfinite().all()), name, "is not finite")
            states[part][rest] = value
        return states


class RunCheckpoints:
    """Writes checkpoints when they are due, and holds a newer one ready in case the run stops in between."""

    def __init__(self, federation: Federation, files: RecordFiles, state: RunState) -> None:
        self.federation, self.files, self.state = federation, files, state
        self.pending: Checkpoint | None = None

    def after_round(self, number: int) -> None:
        """Write a checkpoint every ``checkpoints.every`` rounds, before training and at the end."""
        config, budget = self.federation.config, self.federation.protection.budget
        ended = self.state.best.stops or (budget is not None and budget.finished)
        self.pending = Checkpoint(number, *self.state.capture(), self.files.seal())
        if number % config.checkpoints.every == 0 or number == config.training.rounds or ended:
            self.write()

    def write(self) -> None:
        """Write the pending checkpoint: the state after the last whole round, never that inside a round."""
        if self.pending is not None:
            save_checkpoint(self.files.run, self.pending, self.federation.config.checkpoints.keep)
            self.pending = None
