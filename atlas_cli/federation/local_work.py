"""What a client did in a round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.trainables import StepLoss


@dataclass
class LocalWork:
    """The work of one client in a round, whichever engine ran it.

    Steps, examples, real tokens, wall seconds, the sum of loss over ``labels``, and by step the padded shape of the
    batch, the lengths of the texts that the client computed by themselves (None where it computes the batch), and
    whether it sent activations.
    """

    steps: int = 0
    examples: int = 0
    tokens: int = 0
    labels: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    shapes: list[tuple[int, int]] = field(default_factory=list)
    alone: list[tuple[int, ...] | None] = field(default_factory=list)
    sent: list[bool] = field(default_factory=list)

    @property
    def loss(self) -> float | None:
        """Mean loss over all labels of the round."""
        return self.loss_sum / self.labels if self.labels else None

    @classmethod
    def together(cls, works: Iterable[LocalWork]) -> LocalWork:
        """The work of several clients, but for the shapes of their batches."""
        each = list(works)
        counted = ("steps", "examples", "tokens", "labels", "seconds", "loss_sum")
        return cls(**{name: sum(getattr(work, name) for work in each) for name in counted})

    def add(self, batch: Batch, loss: StepLoss, seconds: float) -> None:
        """Count one step."""
        self.seconds += seconds
        self.shapes.append((batch.input_ids.shape[0], batch.input_ids.shape[1]))
        self.alone.append(loss.alone)
        self.sent.append(loss.sent)
        self.steps += 1
        self.examples += batch.n_examples
        self.tokens += batch.n_tokens
        self.labels += loss.count
        self.loss_sum += loss.mean * loss.count
