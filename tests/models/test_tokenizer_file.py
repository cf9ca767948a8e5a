"""Tokens are those of tokenizer.json, and each of them has a row in the embedding."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from support.tiny_models import FAMILIES, SPECIAL, WORDS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from atlas_cli.cli import main
from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.models.files.tokenizer_file import other_tokens, require_vocabulary, tokenizer_parts
from atlas_cli.models.frozen.load import load_tokenizer

LETTERS = [*"abcdefghilmnoprstvwy▁Ġ", *"0123456789"]
VOCABULARY = {token: number for number, token in enumerate([*SPECIAL, *LETTERS, "12", "th", "the"])}
MERGES = [("t", "h"), ("th", "e"), ("1", "2")]
TEXTS = ["the film 123 was great", "The  Film,  no space", ""]
SPLITS = {
    "metaspace": pre_tokenizers.Metaspace(),
    "digits together": pre_tokenizers.ByteLevel(add_prefix_space=False),
}


def own_tokenizer(split):
    tokenizer = Tokenizer(models.BPE(VOCABULARY, MERGES, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), SPLITS[split]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@pytest.fixture
def folder_of(model_folder, tmp_path):
    """``folder_of(family, tokenizer, settings)``: a model's folder with another tokenizer."""

    def make(family, tokenizer, settings=None):
        folder = Path(shutil.copytree(model_folder(family), tmp_path / "model"))
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings or {}), encoding="utf-8")
        return folder

    return make


def loaded(folder):
    return load_tokenizer(ModelConfig.model_validate({"name": str(folder)}))


@pytest.mark.parametrize("settings", [{}, {"tokenizer_class": "PreTrainedTokenizerFast"}], ids=["no class", "class"])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_the_file_whatever_the_models_type_is(family, split, settings, folder_of):
    folder = folder_of(family, own_tokenizer(split), settings)
    if family in ("deberta-v2", "xlm-roberta") and not settings:  # whose classes take no vocabulary with merges
        with pytest.raises(ResourceError, match="no tokenizer for"):
            loaded(folder)
        return
    tokenizer, stored = loaded(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == stored.encode(text).ids
        assert tokenizer(text, "was")["input_ids"] == stored.encode(text, "was").ids
    words = TEXTS[0].split()
    assert tokenizer(words, is_split_into_words=True)["input_ids"] == stored.encode(words, is_pretokenized=True).ids


def test_another_class_is_named_with_a_text_and_both_lists_of_tokens(folder_of):
    tokenizer = loaded(folder_of("qwen2", own_tokenizer("digits together"), {"pad_token": "[PAD]"}))
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("[PAD]", "right")
    same, other = {"text": ""}, {"words": ["", "a 123"], "label": "x"}
    assert other_tokens(tokenizer, [same]) is None
    assert other_tokens(tokenizer, [same, other]) == (
        "tokens are those of tokenizer.json; Qwen2Tokenizer of transformers makes others, e.g. of 'a 123' from token 4 "
        "on: '12 3 [SEP]' here, '1 2 3 [SEP]' there"
    )


@pytest.mark.parametrize("family", [each for each in FAMILIES if each != "qwen2"])  # whose class splits into bytes
def test_nothing_is_said_where_the_class_keeps_to_the_file(family, model_folder):
    assert other_tokens(loaded(model_folder(family)), [{"text": " ".join(WORDS)}]) is None


@pytest.fixture
def config_of(tmp_path):
    def write(folder):
        (tmp_path / "d.csv").write_text(
            "text,label\n" + "".join(f"the film {i},{i % 2}\n" for i in range(20)), encoding="utf-8"
        )
        config = {
            "name": "t",
            "model": {"name": str(folder), "split_layer": 2},
            "task_groups": {
                "g": {"task": "sequence-classification", "data": {"files": "d.csv"}, "classes": ["0", "1"]}
            },
            "clients": {"a": {"task_group": "g"}},
        }
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        return "c.yaml"

    return write


def test_validate_says_so(folder_of, config_of, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["validate", config_of(folder_of("qwen2", own_tokenizer("metaspace"))), "training.max_length=32"]) == 0
    assert "note: g: tokens are those of tokenizer.json; Qwen2Tokenizer of transformers" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["validate", "data", "train"])
def test_a_token_without_a_row_is_named_before_training(
    command, folder_of, config_of, model_folder, tmp_path, monkeypatch, capsys
):
    """Numbers may have gaps: this tokenizer has fewer tokens than the embedding has rows."""
    monkeypatch.chdir(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 7, "film": 80, "was": 90}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    file = config_of(folder_of("gpt2", tokenizer))
    assert main([command, file, "training.max_length=32"]) == 2
    assert (
        "model.tokenizer: token id 80, 'film', has no embedding row (nor have 1 others): the model has 53, for ids 0 "
        "to 52; give the tokenizer that belongs to it" in capsys.readouterr().err
    )


def test_a_vocabulary_that_fills_the_embedding(model_folder):
    tokenizer = loaded(model_folder("bert"))
    require_vocabulary(tokenizer, len(tokenizer))
    with pytest.raises(ConfigError, match=f"token id {len(tokenizer) - 1}, "):
        require_vocabulary(tokenizer, len(tokenizer) - 1)


def test_a_run_that_began_with_the_hub_may_go_on_without(model_folder):
    """HF_HUB_OFFLINE is told of in what a tokenizer keeps of its making, and changes no token."""
    with_hub, without = (
        AutoTokenizer.from_pretrained(model_folder("bert"), local_files_only=alone) for alone in (False, True)
    )
    assert with_hub.init_kwargs["local_files_only"] != without.init_kwargs["local_files_only"]
    assert tokenizer_parts(with_hub) == tokenizer_parts(without)
