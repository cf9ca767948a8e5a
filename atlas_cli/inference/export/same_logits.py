"""Whether a folder gives the run's logits: both are computed on the same texts, of random words with a fixed seed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer

from atlas_cli.errors import AtlasError
from atlas_cli.federation.parties.evaluation import attached
from atlas_cli.federation.parties.party import as_inputs
from atlas_cli.inference.export.model_files import tokenizer_for
from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.models.halves.split import run_half
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


def encoded(loaded: LoadedModel, folder: Path, texts: list[str]) -> dict[str, Tensor]:
    """The texts as the folder's tokenizer gives them, loaded as its user does.

    Raises:
        AtlasError: the run's tokenizer gives other tokens.
    """
    longest = loaded.config.training.max_length
    options = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
    own = tokenizer_for(loaded)
    if own.pad_token_id is None:
        options |= {"padding": False, "return_tensors": None}
    theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    mine, found = own(texts, **options), theirs(texts, **options)
    if [list(map(int, row)) for row in mine["input_ids"]] != [list(map(int, row)) for row in found["input_ids"]]:
        raise AtlasError(
            f"the tokenizer of {loaded.run.path} gives other tokens once transformers has saved it and read it again"
        )
    if options["return_tensors"] is None:
        found = _padded(found["input_ids"], loaded.pad)
    return {name: tensor for name, tensor in found.items() if name in ("input_ids", "attention_mask", "token_type_ids")}


def _padded(rows: list[list[int]], pad: int) -> dict[str, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def run_logits(loaded: LoadedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits of the run's model, through both halves."""
    model, halves = loaded.model, loaded.halves
    lower, upper, cut = halves
    model.adapters.train(False)
    given, mask = as_inputs(inputs, loaded.device)
    with attached(model.adapters, halves):
        activations = run_half(lower.client_half(cut), mask, **given).to(upper.dtype)
        hidden = run_half(upper.server_half(cut), mask, inputs_embeds=activations)
        logits: Tensor = model.head(hidden, mask)
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
