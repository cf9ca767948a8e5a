"""What an export came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atlas_cli.inference.export.base_of_adapter import BaseOfAdapter
from atlas_cli.inference.export.how_to_load import Loading
from atlas_cli.inference.export.same_logits import Agreement

Form = Literal["merged", "peft"]


@dataclass(frozen=True)
class Exported:
    """A folder that was written.

    Attributes:
        folder: where.
        form: "merged" or "peft".
        loading: what loads it, and how.
        agreement: how far its logits are from the run's; None where they could not be compared.
        quantized: the same of the run's own logits, where its weights were quantised; ``agreement`` is then with the
            run's adapters and head on the weights of the base as they were loaded, which are those of the folder.
        base: what it was trained on.
        reason: why no class of transformers has the head; empty where one has.
        how: how the class comes to the same logits, where it computes them otherwise.
        pooling: what a head for texts reads.
        prompt: of an instruction model, how a prompt becomes text.
        pads_with: the token that pads, where the tokenizer had none.
    """

    folder: Path
    form: Form
    loading: Loading
    agreement: Agreement | None
    base: BaseOfAdapter
    reason: str = ""
    how: str = ""
    pooling: str | None = None
    prompt: str = ""
    pads_with: str = ""
    quantized: Agreement | None = None
