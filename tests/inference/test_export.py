"""Exported folders give the run's logits in transformers, PEFT and sentence-transformers, without atlas."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.peft_folders import randomise
from support.tiny_models import CAUSAL, CONFIGS

from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import AtlasError, OutputError
from atlas_cli.federation.parties.party import Halves, TrainedModel
from atlas_cli.federation.parties.trainables import build_head
from atlas_cli.inference.export import to_folder
from atlas_cli.inference.export.same_logits import encoded, run_logits
from atlas_cli.inference.export.to_folder import export
from atlas_cli.inference.loaded_model import open_model
from atlas_cli.models.adapters.lora import build_adapters
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.frozen.load import load_base, load_tokenizer
from atlas_cli.tasks import build as build_task

TEXT, TOKEN, SPAN, LM = "sequence-classification", "token-classification", "question-answering", "causal-lm"
TEXTS = ["the film was great", "a poor city game is not very fine and we saw it"]
STOCK, SENTENCES, BEHIND = "transformers", "sentence-transformers", "transformers and the head"
PEFTS_WARNING = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
WITHOUT_BIAS_IN_NORM = {
    *("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"),
    *("gemma3_text", "gemma2", "olmo2", "phi3", "smollm3"),
}


def tool_for(task, family, pooling, form):
    """What loads it: the table of docs/guides/export.md."""
    # AutoTokenizer makes another tokenizer of a qwen2 folder with words as tokens
    behind = SENTENCES if form == "merged" and family != "qwen2" else BEHIND
    if task in (TEXT, "regression", "multi-label"):
        fits = family not in {*WITHOUT_BIAS_IN_NORM, "modernbert"} and pooling == (
            "last" if family in CAUSAL else "first"
        )
        return STOCK if fits else behind
    if form == "peft" and task == SPAN and family in ("llama", "qwen2", "qwen3", "qwen3_moe"):
        return BEHIND  # their class for spans names the base "transformer", and files of the language model "model"
    return BEHIND if (task, family) == (TOKEN, "opt") or family == "modernbert" else STOCK


@pytest.fixture(scope="session")
def make_loaded(make_toy_run, model_folder):
    """``make_loaded(task, family, pooling)``: a model as of a run, with adapters of several ranks and a head."""
    template = open_model(make_toy_run(TEXT).path)
    bases = {}

    def make(task, family, pooling="mean", **options):
        key = (family, json.dumps(options, sort_keys=True))
        if key not in bases:
            config = ModelConfig.model_validate({"name": model_folder(family), **options})
            bases[key] = config, load_base(config), load_tokenizer(config)
        config, base, tokenizer = bases[key]
        names = adapted_names(base.model, base.family, "auto")
        ranks = place_ranks(base.model, base.family, {0: 2, 1: 5, 3: 1}, range(base.n_layers), names)
        adapters = build_adapters(base.model, ranks, alpha=template.config.lora.alpha)
        randomise(adapters.parameters(), 1)
        for factor in adapters.parameters():
            factor.data *= 0.4  # as far as training goes; more blows rounding up
        classes = ["neg", "pos", "other"] if task in (TEXT, TOKEN, "multi-label") else []
        built = build_task(task, classes, pooling)
        head = build_head(base, built, 0, "g", torch.device("cpu"))
        randomise([p for p in head.parameters() if p.requires_grad], 2)
        drawn = {"seed": 0} if base.init != "pretrained" else {}
        origin = replace(
            template.origin, base=base.name, weights=base.init, sha256=base.sha256, task=task, classes=classes, **drawn
        )
        return replace(
            template,
            config=template.config.model_copy(update={"model": config}),
            origin=origin,
            base=base,
            model=TrainedModel(adapters, head, Halves(base, base, 2)),
            task=built,
            tokenizer=tokenizer,
        )

    return make


# of all families where a stock class may have the head; where the card's own code reads the mean, of one of each kind
CASES = [
    *((TEXT, family, pooling) for family in CONFIGS for pooling in (("last",) if family in CAUSAL else ("first",))),
    *((TEXT, family, "mean") for family in ("bert", "gpt2", "distilbert")),
    *((task, family, "mean") for family in CONFIGS for task in (TOKEN, SPAN)),
    *((LM, family, "mean") for family in CAUSAL),
    ("regression", "bert", "mean"),
    ("regression", "distilbert", "first"),
    ("regression", "opt", "last"),
    ("multi-label", "roberta", "first"),
]


HEADS = [  # one of each kind; a slow test has all families
    (TEXT, "bert", "first"),
    (TEXT, "roberta", "first"),
    (TEXT, "distilbert", "first"),
    (TEXT, "electra", "first"),
    (TEXT, "deberta-v2", "first"),
    (TEXT, "gpt2", "last"),
    (TEXT, "llama", "last"),
    ("multi-label", "bert", "mean"),
    (SPAN, "llama", "mean"),
    (TOKEN, "opt", "mean"),
    (LM, "qwen2", "mean"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings(PEFTS_WARNING)
@pytest.mark.parametrize("form", ["merged", "peft"])
def test_every_kind_of_head_agrees_on_export(make_loaded, tmp_path, form):
    for number, (task, family, pooling) in enumerate(HEADS):
        found = export(make_loaded(task, family, pooling), tmp_path / str(number), form)
        case = (task, family, pooling, found.reason)
        assert found.agreement.tolerance == 1e-5 >= found.agreement.difference, case
        assert found.loading.tool == tool_for(task, family, pooling, form), case
        assert bool(found.reason) == (found.loading.tool != STOCK), case


def load_by_card(folders, library):
    """What the code of each model card computes in a process of its own."""
    script = Path(__file__).parents[1] / "support" / "load_by_card.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(script), json.dumps(TEXTS), library, *map(str, folders)]
    subprocess.run(command, env=environment, check=True, timeout=300)
    files = {folder: folder.with_suffix(f".{library}") for folder in folders}
    return {folder: load_file(file)["logits"] for folder, file in files.items() if file.exists()}


def exports_of_all(make_loaded, tmp_path):
    expected = {}
    for number, (task, family, pooling) in enumerate(CASES):
        loaded = make_loaded(task, family, pooling)
        inputs = encoded(loaded, TEXTS[:1] if task == LM else TEXTS)
        logits, real = run_logits(loaded, inputs), inputs["attention_mask"].bool()
        for form in ("merged", "peft"):
            folder = tmp_path / f"{number}-{task}-{family}-{pooling}-{form}"
            export(loaded, folder, form)
            expected[folder] = logits, real
    return expected


def require_same(found, expected):
    for folder, logits in found.items():
        mine, real = expected[folder]
        mine, logits = (mine[real], logits[real]) if mine.dim() == 3 else (mine, logits)
        torch.testing.assert_close(logits, mine, rtol=0, atol=1e-5, msg=folder.name)


@pytest.mark.slow
@pytest.mark.filterwarnings(PEFTS_WARNING)
def test_the_code_of_every_model_card_gives_the_logits_without_atlas(make_loaded, tmp_path):
    expected = exports_of_all(make_loaded, tmp_path)
    found = load_by_card(expected, "transformers")
    assert len(found) == len(expected) == 2 * len(CASES)
    require_same(found, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings(PEFTS_WARNING)
def test_sentence_transformers_gives_the_logits(make_loaded, tmp_path):
    if find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers is not installed; it is no dependency of atlas")
    expected = exports_of_all(make_loaded, tmp_path)
    found = load_by_card(expected, "sentences")
    assert len(found) == sum(tool_for(*case, "merged") == SENTENCES for case in CASES)
    require_same(found, expected)


@pytest.mark.filterwarnings(PEFTS_WARNING)
def test_a_base_that_was_drawn_goes_with_the_adapter(make_loaded, tmp_path):
    found = export(make_loaded(LM, "gpt2", init="random"), tmp_path / "drawn", "peft")
    assert found.agreement.holds and found.base.name is None
    adapter = json.loads((tmp_path / "drawn" / "adapter_config.json").read_text(encoding="utf-8"))
    assert Path(adapter["base_model_name_or_path"]) == tmp_path / "drawn" / "base"
    assert (tmp_path / "drawn" / "base" / "model.safetensors").is_file()
    card = (tmp_path / "drawn" / "README.md").read_text(encoding="utf-8")
    assert "which are not those of the published model" in card and 'from_pretrained(f"{folder}/base"' in card


def test_a_language_model_stops_where_its_base_does(make_loaded, tmp_path):
    loaded = make_loaded(LM, "gpt2")
    export(loaded, tmp_path / "lm")
    own, exported = (
        json.loads((Path(folder) / "generation_config.json").read_text(encoding="utf-8"))
        for folder in (loaded.base.name, tmp_path / "lm")
    )
    assert own == exported and own["eos_token_id"] == 4


def test_a_base_in_bfloat16_stays_so_and_the_difference_is_said(make_loaded, tmp_path):
    found = export(make_loaded(TOKEN, "bert", dtype="bfloat16"), tmp_path / "half")
    assert found.agreement.holds and 1e-5 < found.agreement.difference < found.agreement.tolerance == 5e-2
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert stored["bert.embeddings.word_embeddings.weight"].dtype == torch.bfloat16
    card = (tmp_path / "half" / "README.md").read_text(encoding="utf-8")
    assert f"the largest difference is {found.agreement.difference:.1e}" in card and "is rounded to the dtype" in card


def test_what_a_mechanism_did_at_the_cut_is_left_out_and_said(make_toy_run, tmp_path):
    loaded = open_model(make_toy_run(privacy={"activations": {"clip": 8.0, "noise_multiplier": 0.2}}).path)
    found = export(loaded, tmp_path / "quiet")
    assert found.agreement.difference <= 1e-5
    assert "activations were changed at the cut" in (tmp_path / "quiet" / "README.md").read_text(encoding="utf-8")


def test_logits_that_differ_are_no_export(make_loaded, tmp_path, monkeypatch):
    """Nothing is left of a folder that does not do what the run does, and of what was there nothing is lost."""
    loaded = make_loaded(TOKEN, "opt")
    base = loaded.base.model
    wrong = {name: tensor + 0.1 for name, tensor in base.state_dict().items()}
    monkeypatch.setattr(to_folder, "merged_weights", lambda loaded: wrong)
    with pytest.raises(AtlasError, match=r"nothing was exported: AutoModel gives logits that differ by \d"):
        export(loaded, tmp_path / "to")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="is not empty, and nothing is overwritten"):
        export(loaded, tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
