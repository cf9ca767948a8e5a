"""The contract of a mechanism. Each has a file in this folder, named as its key under ``privacy`` in the YAML
(``_`` for ``-``); its class is named ``Mechanism``.

A mechanism that is added, here or by another package, is that one file: its options, and what it does in a client's
local step through the split (``sent``, ``penalty``). Names of its own begin with an underscore: any other name that
``BaseMechanism`` does not have is refused when the mechanism is loaded. It bounds no epsilon (``channel`` is None): an
epsilon follows from how often a channel is used, and ``privacy.account`` counts that for the mechanisms that it knows.

Those that do more (noise on updates and single gradients, labels, codecs) say here what they are, and are put
where they act by ``federation.protection``; their options are in ``config.schema.privacy``, which must be read without
torch.

``atlas_cli.testing.mechanisms`` tests a mechanism, in one line of a plug-in's own tests.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from atlas_cli.config.schema.privacy import Channel
from atlas_cli.config.schema.section import Section
from atlas_cli.errors import PluginError
from atlas_cli.plugins import file_of
from atlas_cli.seeding import torch_generator


class BaseMechanism(ABC):
    """A mechanism of one party: ``privacy: {<name>: {<options>}}`` in YAML.

    Args:
        options: an instance of ``Options``.
        seed: of the run.
        party: the client; "evaluation" where predictions are made.

    Attributes:
        protects: a sentence that says what it protects, and from whom.
        channel: the channel whose epsilon it bounds; None: it bounds none.
        unit: the unit in which neighbouring data sets differ, whose presence or value the epsilon protects.
        Options: the config section under its key in ``privacy``.
    """

    protects: ClassVar[str]
    channel: ClassVar[Channel | None] = None
    unit: ClassVar[str | None] = None
    Options: ClassVar[type[Section]] = Section

    def __init__(self, options: Any, seed: int, party: str) -> None:
        self.options, self._seed, self._party = options, seed, party

    @classmethod
    def promise(cls, options: Any) -> str:
        """What the mechanism protects with these options."""
        return cls.protects

    def sent(self, activations: Tensor, mask: Tensor, now: tuple[int, int]) -> Tensor:
        """The differentiable tensor, of the same shape and dtype, that is sent instead of ``activations`` (B, T, D).

        Predictions are made with it, too.

        Args:
            mask: (B, T), whether a token is real.
            now: round and step, from which noise is drawn (see ``generator``).
        """
        return activations

    def penalty(self, embedded: Callable[[], Tensor], activations: Tensor, mask: Tensor) -> Tensor | None:
        """The 0-d term that is added to the client's loss; its gradient reaches the client's adapters only.

        Args:
            embedded: computes the embeddings of the tokens, (B, T, D).
            activations: the activations before any mechanism, (B, T, D).
            mask: (B, T), whether a token is real.
        """
        return None

    def generator(self, now: tuple[int, int]) -> torch.Generator:
        """The generator of this party's noise in a round and step: equal ones draw equal noise, also after a resume."""
        return torch_generator(self._seed, f"privacy-{type(self).__module__}", self._party, *now)


def sent_by(mechanism: BaseMechanism, activations: Tensor, mask: Tensor, now: tuple[int, int]) -> Tensor:
    """What a mechanism sends instead of activations.

    Raises:
        PluginError: something of another shape or type.
    """
    found: object = mechanism.sent(activations, mask, now)
    if isinstance(found, Tensor) and (found.shape, found.dtype) == (activations.shape, activations.dtype):
        return found
    gives = f"{found.dtype} of {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    expected = f"{activations.dtype} of {tuple(activations.shape)}, as it was given"
    raise PluginError(f"{file_of(type(mechanism))}: Mechanism.sent gives {gives}, expected {expected}")


def penalty_of(
    mechanism: BaseMechanism, embedded: Callable[[], Tensor], activations: Tensor, mask: Tensor
) -> Tensor | None:
    """What a mechanism adds to a client's loss.

    Raises:
        PluginError: something else than None or a 0-d tensor with a gradient.
    """
    found: object = mechanism.penalty(embedded, activations, mask)
    if found is None:
        return None
    if isinstance(found, Tensor) and found.dim() == 0 and found.requires_grad >= activations.requires_grad:
        return found
    gives = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    raise PluginError(
        f"{file_of(type(mechanism))}: Mechanism.penalty gives {gives}, expected a 0-d tensor with a gradient, or None"
    )
