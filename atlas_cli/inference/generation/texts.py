"""Generates texts with a model of a run, and keeps account of what crossed the cut and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from atlas_cli.errors import ConfigError
from atlas_cli.experiment.round_loop import require_matching
from atlas_cli.federation.parties.crossing import Cut
from atlas_cli.federation.parties.generation import Decoding, Generated, GeneratedBatch, Generator
from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.privacy.mechanisms import active_mechanisms
from atlas_cli.privacy.mechanisms.contract import BaseMechanism
from atlas_cli.wire.ledger import Ledger

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer


class TextGeneration:
    """Texts that a model generates, through the split that its run trained with.

    Args:
        decoding: how tokens are chosen; the task's own ends of a text are added.

    Attributes:
        ledger: counts the messages between client and server.
        batches: what was computed so far.
        seconds: that this machine took for it.

    Raises:
        ConfigError: the model's task generates no text.
    """

    def __init__(self, loaded: LoadedModel, decoding: Decoding) -> None:
        require_text(loaded)
        config, halves = loaded.config, loaded.halves
        self.loaded, self.ledger, self.batches, self.seconds = loaded, Ledger(), list[GeneratedBatch](), 0.0
        self.split = config.mode == "split-federated"
        self.samples_at_client = not self.split or config.training.labels == "client"
        tokens, strings = loaded.task.ends(loaded.tokenizer)
        self._decoding = decoding.with_stops(strings)
        cut = Cut(
            (halves.lower.dtype, halves.upper.dtype),
            loaded.base.hidden_size,
            client=loaded.owner.name,
            head_at_client=self.samples_at_client,
            beams=decoding.beams,
            ledger=self.ledger if self.split else None,
            sent=loaded.evaluator().sent_of(loaded.model) if self.split else None,
        )
        self._generator = Generator(loaded.model, halves, loaded.tokenizer, tokens, loaded.pad, cut, loaded.device)

    def texts(
        self, prompts: Sequence[Sequence[int]], batch_size: int = 1, streamer: BaseStreamer | None = None
    ) -> Iterator[Generated]:
        """What follows each of the prompts, in their order.

        Raises:
            AtlasError: bytes do not match their closed form.
        """
        began = time.perf_counter()
        for batch in self._generator(prompts, self._decoding, batch_size, streamer):
            self.seconds += time.perf_counter() - began
            self.batches.append(batch)
            require_matching(self.ledger)
            yield from batch.texts
            began = time.perf_counter()

    @property
    def tokens(self) -> int:
        """All tokens that were generated."""
        return sum(len(text.tokens) for batch in self.batches for text in batch.texts)

    def bytes(self) -> dict[str, int]:
        """Serialised bytes that crossed the cut, up and down."""
        client = [self.loaded.owner.name]
        return {"up": self.ledger.total("up", client), "down": self.ledger.total("down", client)}

    def notes(self) -> list[str]:
        """What crosses the cut here, in words, and which of the run's mechanisms act on it."""
        if not self.split:
            return [f"the run has mode {self.loaded.config.mode}: one device has the whole model, and nothing is sent"]
        privacy = self.loaded.config.privacy
        where = (
            "the client chooses tokens (labels: client): hidden states go up, and those of the last block come down"
            if self.samples_at_client
            else "the server chooses tokens: hidden states go up, and token ids come down, so that it sees the text"
        )
        unused = {
            "wire": self.loaded.config.wire.acts,
            "privacy.pad_lengths": privacy.pad_lengths is not None,
        }
        changing = [
            name
            for name, (mechanism, _) in active_mechanisms(privacy).items()
            if name in ("activations", "mid") or mechanism.sent is not BaseMechanism.sent
        ]
        return [
            where,
            *(f"privacy.{key} acts on the hidden states that are sent, as in training" for key in changing),
            *(f"{key} is not applied to what is generated" for key, there in unused.items() if there),
        ]


def require_text(loaded: LoadedModel) -> None:
    """Refuse a model that generates no text.

    Raises:
        ConfigError: its task does not.
    """
    if not loaded.task.prompt_fields:
        raise ConfigError(
            f"{loaded.run.path}: task {loaded.origin.task} generates no text; atlas generate is for causal models"
            " (tasks causal-lm, instruction and chat)"
        )
