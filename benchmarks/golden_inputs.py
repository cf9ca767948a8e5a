"""Inputs of ``golden.py``: tiny models, data and configs, of nothing that the package or its tests could change."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

WORDS = [
    *("the", "a", "film", "movie", "game", "phone", "price", "city", "river", "good", "great", "fine", "bad", "awful"),
    *(
        "poor",
        "was",
        "is",
        "and",
        "very",
        "not",
        "who",
        "what",
        "where",
        "when",
        "how",
        "many",
        "people",
        "play",
        "win",
    ),
    *("free", "call", "now", "prize", "we", "saw", "it", "in", "on", "of", "to", "paris", "london", "john", "mary"),
    *("acme", "works", "for", "lives"),
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<|endoftext|>"]
SIZE = {"vocab_size": len(SPECIAL) + len(WORDS), "pad_token_id": 0}
ENDS = {**SIZE, "bos_token_id": 4, "eos_token_id": 4}
BERT = {**ENDS, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
LLAMA = {**BERT, "num_key_value_heads": 2, "max_position_embeddings": 64}
DISTILBERT = {**SIZE, "dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {**ENDS, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "llama": LLAMA,
    "mistral": {**LLAMA, "sliding_window": 4},
    "qwen2": {**LLAMA, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2},
    "qwen3": {**LLAMA, "head_dim": 8},
    "bert": {**BERT, "max_position_embeddings": 64},
    "roberta": {**BERT, "max_position_embeddings": 66},
    "distilbert": DISTILBERT,
}
ENCODERS = ("bert", "roberta", "distilbert")
FILLER = ["the", "a", "film", "movie", "game", "phone", "price", "city", "river", "was", "is", "and", "very", "not"]
TONE = {"pos": ["good", "great", "fine"], "neg": ["bad", "awful", "poor"]}
PLACES = ["paris", "london", "acme"]
GROUPS: dict[str, Any] = {
    "tone": {"task": "sequence-classification", "data": {"files": "data/tone.csv"}},
    "where": {"task": "sequence-classification", "data": {"files": "data/where.csv"}},
    "tags": {"task": "token-classification", "data": {"files": "data/tags.jsonl"}},
    "asks": {"task": "question-answering", "data": {"files": "data/asks.jsonl"}},
    "lines": {"task": "causal-lm", "data": {"files": "data/lines.txt"}},
    "tell": {"task": "instruction", "data": {"files": "data/tell.jsonl"}},
}
CONFIGS = {  # name: family of the model, task groups of clients a and b, and of c and d
    "bert": ("bert", "tone", "tags"),
    "classes": ("bert", "tone", "where"),
    "roberta": ("roberta", "asks", "tone"),
    "distilbert": ("distilbert", "tags", "asks"),
    "gpt2": ("gpt2", "lines", "tell"),
    "llama": ("llama", "tell", "tone"),
    "mistral": ("mistral", "lines", "where"),
    "qwen2": ("qwen2", "tell", "lines"),
    "qwen3": ("qwen3", "tone", "lines"),
}


def write_inputs() -> None:
    """Models, data and configs, into the current folder."""
    Path("data").mkdir()
    draw = random.Random(0)
    texts = [draw.choices(FILLER, k=draw.randint(3, 8)) for _ in range(60)]
    places = [draw.choice(PLACES) for _ in texts]
    tones = [(draw.choice(TONE[name]), name) for name in ("pos", "neg") * 30]
    owners = ["ab"[i % 2] for i in range(60)], ["cde"[i % 3] for i in range(60)]
    said = [f"{' '.join(t)} {word}" for t, (word, _) in zip(texts, tones, strict=True)]
    _table("tone.csv", said, [name for _, name in tones], owners[0])
    _table("where.csv", [f"{' '.join(t)} in {p}" for t, p in zip(texts, places, strict=True)], places, owners[1])
    both = list(zip(texts, places, strict=True))
    _lines("lines.txt", [" ".join(t) for t in texts])
    _rows("tags.jsonl", [{"tokens": [*t, p], "tags": ["O"] * len(t) + ["B-LOC"]} for t, p in both])
    answers = [{"text": [p], "answer_start": [len(" ".join(t)) + 1]} for t, p in both]
    contexts = [" ".join([*t, p]) for t, p in both]
    asked = zip(contexts, answers, strict=True)
    _rows("asks.jsonl", [{"question": "what city", "context": context, "answers": answer} for context, answer in asked])
    _rows("tell.jsonl", [{"prompt": " ".join(t), "response": f"it was {p}"} for t, p in both])
    for family in FAMILIES:
        _write_model(family)
    for name, (family, first, second) in CONFIGS.items():
        Path(f"{name}.yaml").write_text(
            yaml.safe_dump(_config(family, first, second), sort_keys=False), encoding="utf-8"
        )


def _write_model(family: str) -> None:
    """A randomly initialised model of 4 layers of width 32, and a word tokenizer."""
    torch.manual_seed(0)
    auto = AutoModel if family in ENCODERS else AutoModelForCausalLM
    auto.from_config(AutoConfig.for_model(family, **FAMILIES[family])).eval().save_pretrained(f"models/{family}")
    words = {token: i for i, token in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    more: dict[str, Any] = {"eos_token": "<|endoftext|>"}
    if family in ENCODERS:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        more = {"cls_token": "[CLS]", "sep_token": "[SEP]", "model_input_names": inputs}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", **more)
    made.save_pretrained(f"models/{family}")


def _config(family: str, first: str, second: str) -> dict[str, Any]:
    return {
        "name": "golden",
        "device": "cpu",
        "threads": 1,
        "model": {"name": f"./models/{family}", "split_layer": 2},
        "server": {"rank": 2},
        "task_groups": {first: GROUPS[first], second: GROUPS[second]},
        "clients": {
            "a": {"task_group": first, "rank": 4},
            "b": {"task_group": first, "rank": 2},
            "c": {"task_group": second, "rank": 3},
            "d": {"task_group": second, "rank": {0: 1, 1: 4}},
        },
        "training": {"rounds": 2, "local_steps": 2, "batch_size": 4, "max_length": 32},
    }


def _table(name: str, texts: list[str], labels: list[str], owners: list[str]) -> None:
    rows = zip(texts, labels, owners, strict=True)
    _lines(name, ["text,label,owner", *(",".join(row) for row in rows)])


def _lines(name: str, lines: list[str]) -> None:
    Path("data", name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _rows(name: str, rows: list[dict[str, Any]]) -> None:
    _lines(name, [json.dumps(row) for row in rows])
