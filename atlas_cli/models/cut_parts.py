"""What privacy mechanisms add to the head of a client: parts that act at the cut, and travel with the head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import nn

from atlas_cli.config.schema.privacy import PrivacyConfig
from atlas_cli.models import bottleneck, denoiser
from atlas_cli.models.bottleneck import Bottleneck
from atlas_cli.models.denoiser import Denoiser

SENT = tuple(f"head.{name}." for name in (bottleneck.NAME, denoiser.NAME))  # how names of their parameters begin


@dataclass(frozen=True)
class CutParts:
    """The ranks of the parts; None: it is not there.

    Attributes:
        bottleneck: of ``privacy.mid``; denoiser: of ``privacy.denoise``.
    """

    bottleneck: int | None = None
    denoiser: int | None = None

    @classmethod
    def of(cls, privacy: PrivacyConfig) -> CutParts:
        """Those that a config asks for."""
        mid, denoise = privacy.mid, privacy.denoise
        return cls(None if mid is None else mid.rank, None if denoise is None else denoise.rank)

    def add_to(
        self, head: nn.Module, hidden_size: int, drawn: Callable[[str], AbstractContextManager[None]] | None = None
    ) -> nn.Module:
        """The same head with the parts, which are no part of its forward.

        Args:
            drawn: the context in which a part of that name draws its weights.
        """
        for name, part in self._made(hidden_size):
            with nullcontext() if drawn is None else drawn(name):
                head.add_module(name, part())
        return head

    def _made(self, hidden_size: int) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
        if (rank := self.bottleneck) is not None:
            yield bottleneck.NAME, lambda: Bottleneck(hidden_size, rank)
        if (size := self.denoiser) is not None:
            yield denoiser.NAME, lambda: Denoiser(hidden_size, size)


NO_PARTS = CutParts()
