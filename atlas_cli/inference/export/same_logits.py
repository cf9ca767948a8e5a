"""Whether a folder gives the run's logits: both are computed on the same texts, of random words with a fixed seed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from atlas_cli.data.collate import Batch
from atlas_cli.errors import AtlasError
from atlas_cli.inference.export.model_files import tokenizer_for
from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.seeding import torch_generator

TEXTS, LONGEST = 8, 24
TOLERANCE, TOLERANCE_OF_HALF = 1e-5, 5e-2  # of the largest logit, or of 1 where that is below 1


@dataclass(frozen=True)
class Agreement:
    """How far a folder's logits are from the run's.

    Attributes:
        difference: the largest, over all texts and classes; ``largest``: logit.
        tolerance: the difference up to which they are called equal.
    """

    difference: float
    largest: float
    tolerance: float
    texts: int = TEXTS

    @property
    def holds(self) -> bool:
        """Whether they agree; never where a number is not finite."""
        return self.difference <= self.tolerance * max(1.0, self.largest)


def sample_texts(loaded: LoadedModel) -> list[str]:
    """Texts of random tokens of the vocabulary, of different lengths; special tokens are left out."""
    tokenizer = loaded.tokenizer
    special = {*tokenizer.all_special_ids, loaded.pad}
    usable = torch.tensor(sorted(number for number in tokenizer.get_vocab().values() if number not in special))
    generator = torch_generator(0, "texts of an export")
    longest = min(LONGEST, loaded.config.training.max_length)
    texts = []
    for number in range(TEXTS):
        length = max(1, longest * (number + 1) // TEXTS)
        picked = usable[torch.randint(len(usable), (length,), generator=generator)]
        texts.append(tokenizer.decode(picked.tolist()) or "a")
    return texts


def tokenizer_class(loaded: LoadedModel, folder: Path) -> str:
    """The class of transformers by which the tokenizer of a folder gives the run's tokens.

    ``AutoTokenizer`` makes the class of some types of models anew from the vocabulary, with rules of its own.

    Raises:
        AtlasError: there is none.
    """
    texts = sample_texts(loaded)
    mine = tokenizer_for(loaded)(texts)["input_ids"]
    for name in ("AutoTokenizer", "PreTrainedTokenizerFast"):
        if getattr(transformers, name).from_pretrained(folder)(texts)["input_ids"] == mine:
            return name
    raise AtlasError(f"the tokenizer of {loaded.run.path} gives other tokens once transformers has saved and read it")


def encoded(loaded: LoadedModel, texts: Sequence[str]) -> dict[str, Tensor]:
    """The texts as the exported tokenizer gives them, padded."""
    longest = loaded.config.training.max_length
    found = tokenizer_for(loaded)(list(texts), truncation=True, max_length=longest)
    names = ("input_ids", "attention_mask", "token_type_ids")
    fill = {"input_ids": loaded.pad}
    return {name: _padded(found[name], fill.get(name, 0)) for name in names if name in found}


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


@torch.no_grad()
def run_logits(loaded: LoadedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits of the run's model, through both halves, and without the noise of the run's mechanisms at the cut."""
    ids = inputs["input_ids"]
    batch = Batch(ids, inputs["attention_mask"], inputs.get("token_type_ids"), ids[:, :0], [])
    evaluator = loaded.evaluator()
    evaluator.sent = None
    with evaluator.passes(loaded.model) as logits_of:
        logits, _ = logits_of(batch, 0)
    return logits.float().cpu()


@torch.no_grad()
def stock_logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits of a model of a stock class; of spans (B, T, 2)."""
    output = model.eval()(**inputs)
    found: Tensor = output.logits if "logits" in output else torch.stack([output.start_logits, output.end_logits], -1)
    return found.float()


@torch.no_grad()
def logits_behind(loaded: LoadedModel, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits of the run's head behind a stock model, as sentence-transformers and the model card compute them."""
    hidden = model.eval()(**inputs).last_hidden_state
    head = copy.deepcopy(loaded.model.head).cpu()
    logits: Tensor = head(hidden, inputs["attention_mask"])
    return logits.float()


def load_stock(auto: str, folder: Path) -> Any:
    """The model of a folder by an Auto class, with every weight from its file.

    Raises:
        AtlasError: a weight is missing, or one is left over.
    """
    model, found = getattr(transformers, auto).from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True
    )
    if wrong := sorted({*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]}):
        raise AtlasError(f"{auto} does not take the weights of {folder}: {wrong[0]}")
    return model


def agreement(loaded: LoadedModel, mine: Tensor, theirs: Tensor, mask: Tensor) -> Agreement:
    """Compare logits of texts (B, C), or of real tokens (B, T, C)."""
    if mine.dim() == 3:
        mine, theirs = mine[mask.bool()], theirs[mask.bool()]
    lower, upper, _ = loaded.halves
    exact = lower.dtype == upper.dtype == torch.float32
    difference, largest = float((mine - theirs).abs().max()), float(mine.abs().max())
    return Agreement(difference, largest, TOLERANCE if exact else TOLERANCE_OF_HALF)
