"""A model with random weights and texts of random words, for machines that reach no network."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from contestants.experiment import WINDOW

SPECIAL = ("[PAD]", "[UNK]", "<|endoftext|>")
HELD_OUT = 2  # as many texts again, to test on


def write_model(folder: Path, config: PreTrainedConfig, device: torch.device) -> Path:
    """A folder as ``save_pretrained`` writes it, with a tokenizer of one token a word; drawn on ``device``."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *_words(config.vocab_size)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(zip(("pad_token", "unk_token", "eos_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    with device:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def write_texts(path: Path, vocabulary: int, texts: int, tokens: int) -> Path:
    """JSON lines for so many ``texts`` a step: a quarter of ``tokens`` words to all of them, of two classes."""
    draw, words = random.Random(0), _words(vocabulary)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for i in range(HELD_OUT * texts * WINDOW):
            text = " ".join(draw.choices(words, k=draw.randint(tokens // 4, tokens)))
            file.write(json.dumps({"text": text, "label": "ab"[i % 2]}) + "\n")
    return path


def _words(vocabulary: int) -> list[str]:
    return [f"w{i}" for i in range(vocabulary - len(SPECIAL))]
