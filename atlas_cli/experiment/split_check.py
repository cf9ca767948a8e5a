"""The result of the proof of the split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import AtlasError
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.printable import on_one_line

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Check:
    """The comparison for one task group.

    Attributes:
        loss_difference, gradient_difference: largest absolute differences from the unsplit model.
        packed_loss_difference, packed_gradient_difference: the same for a pass over real tokens alone, as clients share
            them in training, the loss relative to its size above 1; None where they do not. Its matrix products have
            other shapes, and so other roundings.
        gradient_norm: of the client's adapters, unsplit, or of all that is trained where it has none; zero would mean
            that nothing is trained.
        adapter_effect: how much the adapters change the loss; zero would mean that they are not attached.
        dtype: of the client, where it is not the model's; ``embedding``: "rows" where it holds rows of the table;
            ``weight_difference``: the largest of its copy of the weights from the model's own, cast.
        quantization: of the client's weights, where they are quantised, as they are in the unsplit model then, too;
            ``server_quantization``: of the server's; ``rounding``: the largest difference of such a weight from the
            model's own.
        frozen: whether the client has nothing trained, so that the gradients are the server's.
        tried: what was found by the shape of a model without a family file, in words.
    """

    task_group: str
    split_layer: int
    examples: int
    tokens: int
    padding_tokens: int
    loss_difference: float
    gradient_difference: float
    gradient_norm: float
    adapter_effect: float
    tolerance: float
    dtype: str | None = None
    embedding: str | None = None
    weight_difference: float = 0.0
    quantization: str | None = None
    server_quantization: str | None = None
    rounding: float = 0.0
    packed_loss_difference: float | None = None
    packed_gradient_difference: float | None = None
    frozen: bool = False
    tried: str = ""

    @property
    def passed(self) -> bool:
        """Whether split and unsplit model are equal within tolerance, and not trivially so."""
        packed = [
            d / ROUNDINGS for d in (self.packed_loss_difference, self.packed_gradient_difference) if d is not None
        ]
        # each compared by itself: max() would lose a NaN
        close = all(d <= self.tolerance for d in (self.loss_difference, self.gradient_difference, *packed))
        attached = self.adapter_effect > 0 or self.frozen  # then the server may train a head alone
        return close and self.gradient_norm > 0 and attached and self.weight_difference == 0

    @property
    def place(self) -> str:
        """The cut, and how the client holds its weights where it does not hold the model's own."""
        return f"layer {self.split_layer}{self.held}{', frozen' if self.frozen else ''}"

    @property
    def held(self) -> str:
        """How the client holds its weights, where they are quantised or it has a copy."""
        own = [name for name in (self.dtype, self.quantization) if name is not None]
        rows = "" if self.embedding is None else " with embeddings by the row"
        return (f" in {', '.join(own)}" if own else "") + rows

    def sentence(self) -> str:
        """For the screen and the log."""
        return (
            f"split = unsplit for {self.task_group} at {self.place}: loss differs by "
            f"{self.loss_difference:.1e}, gradients by {self.gradient_difference:.1e} "
            f"({self.examples} examples, {self.padding_tokens} padding tokens"
            f"{'' if self.packed_loss_difference is None else f'; without them {self._packed()}'}"
            f"{f'; quantised weights differ from the base by up to {self.rounding:.2g}' if self.rounding else ''})"
        )

    def record(self) -> dict[str, object]:
        """For the manifest and ``--json``."""
        own = {name for name in ("dtype", "embedding") if getattr(self, name) is None}
        packed = () if self.packed_loss_difference is not None else _PACKED
        plain = () if self.rounding else ("quantization", "server_quantization", "rounding")
        left_out = {
            *own,
            *packed,
            *plain,
            *(name for name in ("frozen", "tried") if not getattr(self, name)),
            *(() if self.held else ("weight_difference",)),
        }
        return {**{key: value for key, value in asdict(self).items() if key not in left_out}, "passed": self.passed}

    def _packed(self) -> str:
        return f"{self.packed_loss_difference:.1e} and {self.packed_gradient_difference:.1e}"


def before_codecs(config: ExperimentConfig) -> list[str]:
    """What the proof does not say, where messages have codecs."""
    if not any(spec.wire.by_kind() for spec in config.client_kinds()):
        return []
    return [
        "that is before wire encodes messages; what codecs cost is in metrics.jsonl, in every round: compression and "
        "compressed_step"
    ]


ROUNDINGS = 10.0  # what a pass without padding may differ by, in tolerances
_PACKED = ("packed_loss_difference", "packed_gradient_difference")


def require_verified(checks: Sequence[Check]) -> None:
    """Refuse to go on with a split that is not the model.

    Raises:
        AtlasError: names the task group and the difference.
    """
    for check in checks:
        if check.weight_difference != 0:  # NaN is not 0, either
            raise AtlasError(
                f"the weights that clients of task group {check.task_group} hold{check.held} are not the model's: "
                f"they differ by {check.weight_difference:.3g}; not trained"
            )
        if not check.passed:
            raise AtlasError(
                f"the split at {check.place} is not the unsplit model for task group {check.task_group}: "
                f"loss differs by {check.loss_difference:.3g}, gradients by {check.gradient_difference:.3g}"
                f"{_of_packed(check)} (tolerance {check.tolerance:.0e}; gradient norm {check.gradient_norm:.3g}, "
                f"effect of adapters {check.adapter_effect:.3g}); not trained{_tried(check.tried)}"
            )


@contextmanager
def running(family: BaseFamily) -> Iterator[None]:
    """Inside the block, what a model without a family file raises is said to be found wrongly.

    Raises:
        AtlasError: names the error and what was tried.
    """
    try:
        yield
    except AtlasError:
        raise
    except Exception as error:  # transformers' layers answer what does not fit with exceptions of many kinds
        if not family.by_shape:
            raise
        what = on_one_line(f"{type(error).__name__}: {error}")[:200]
        raise AtlasError(f"the split does not run ({what}); not trained{_tried(family.by_shape)}") from error


def _tried(by_shape: str) -> str:
    return f"; found by the model's shape and tried: {by_shape}; it needs a family file" if by_shape else ""


def _of_packed(check: Check) -> str:
    if check.packed_loss_difference is None:
        return ""
    allowed = f"up to {ROUNDINGS * check.tolerance:.0e} is rounding, and engine.fuse=off trains with padding"
    return f", without padding by {check._packed()}, where {allowed}"
