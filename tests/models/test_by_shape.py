"""Models without a family file: what their shape gives is the model, or is refused with what was tried."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from support.slow import slow_but
from support.tiny_models import CONFIGS, word_tokenizer
from support.unlisted_models import DIFFERENT, EQUAL, REFUSED, unlisted
from transformers import AutoModelForCausalLM

from atlas_cli.cli import main
from atlas_cli.errors import ConfigError
from atlas_cli.models.families import _by_shape, family_of
from atlas_cli.models.families._by_shape import by_shape
from atlas_cli.models.frozen.load import as_base
from atlas_cli.models.frozen.skeleton import put_together, take_apart
from atlas_cli.testing import families
from atlas_cli.testing.families import CHECKS


@pytest.mark.parametrize("model_type", slow_but(EQUAL, "stablelm"))
def test_the_split_is_the_unsplit_model_at_every_cut(model_type, monkeypatch):
    """With every padding; and clients are computed one by one."""
    config = unlisted(model_type, EQUAL[model_type])
    found = by_shape(config)
    monkeypatch.setattr(families, "family_of", lambda _: found)
    CHECKS["cuts"](config)
    CHECKS["checkpointing"](config)
    if model_type in ("stablelm", "gptj", "olmoe"):  # fused attention; plain, with a feed-forward beside it; experts
        CHECKS["work"](config)
    assert not found.packs and found is by_shape(unlisted(model_type, EQUAL[model_type]))


# stages of experts are told apart in the file; MPNet says nowhere that its positions begin at 2; ELECTRA projects; the
# attention of Falcon is fused or not by its options
OTHERWISE = ("mixtral", "qwen3_moe", "mpnet", "electra", "falcon")


@pytest.mark.parametrize("name", slow_but([name for name in CONFIGS if name not in OTHERWISE], "gpt_neox", "bert"))
def test_what_is_found_of_a_model_with_a_family_file_is_what_the_file_says(name):
    config = CONFIGS[name]()
    found, file = by_shape(config), family_of(config)
    for attribute in ("blocks", "final_norm", "targets", "stages", "causal", "ends_in_norm", "unused"):
        assert getattr(found, attribute) == getattr(file, attribute), attribute
    assert {*found.input_side} >= {*file.input_side}  # and dropouts, which do nothing
    for method in ("parallel", "positions", "fused_attention"):
        assert getattr(found, method)(config) == getattr(file, method)(config), method


@pytest.mark.parametrize("model_type", slow_but(REFUSED, "squeezebert"))
def test_what_is_not_understood_is_refused_with_what_was_found(model_type):
    options, why = REFUSED[model_type]
    with pytest.raises(ConfigError) as error:
        family_of(unlisted(model_type, options), "auto")
    said = str(error.value)
    assert said.startswith(f"model.family: no family of {model_type} is found by its shape: {why}")
    assert "\n" not in said and len(said) < 500


def test_without_the_key_the_nearest_family_is_named():
    with pytest.raises(ConfigError) as error:
        family_of(unlisted("stablelm", EQUAL["stablelm"]))
    assert str(error.value).startswith(
        "model.name: architecture 'stablelm' is not supported; its blocks are most like those of llama, and "
        "model.family: auto tries it; supported: "
    )


def experiment(folder, config):
    """A toy experiment on a model of random weights in a folder."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    word_tokenizer(causal=True).save_pretrained(folder / "model")
    nouns = ("film", "game", "phone", "price", "city", "river")
    rows = [f"the {a} {b} was {w},{w}" for a in nouns for b in nouns for w in ("great", "bad")]
    (folder / "data.csv").write_text("text,label\n" + "\n".join(rows) + "\n", "utf-8")
    said = {
        "name": "toy",
        "model": {"name": str(folder / "model"), "split_layer": 1, "family": "auto"},
        "task_groups": {"g": {"task": "sequence-classification", "data": {"files": str(folder / "data.csv")}}},
        "clients": {"a": {"task_group": "g", "rank": 2}, "b": {"task_group": "g", "rank": 3}},
        "training": {"rounds": 1, "local_steps": 1, "batch_size": 4, "max_length": 16},
        "output": {"dir": str(folder / "runs")},
    }
    (folder / "x.yaml").write_text(yaml.safe_dump(said), "utf-8")
    return str(folder / "x.yaml")


def test_a_split_that_is_not_the_model_is_not_trained(tmp_path, capsys):
    """Granite multiplies whatever it is fed, and so would the server again."""
    file = experiment(tmp_path, unlisted("granite", DIFFERENT["granite"]))
    assert main(["train", file]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"loss differs by [\d.e-]+, gradients by [\d.e-]+ \(tolerance 1e-06", said)
    assert said.endswith(
        "not trained; found by the model's shape and tried: blocks layers, final norm norm, before the blocks "
        "embed_tokens, adapters on self_attn.q_proj, self_attn.v_proj, a decoder; it needs a family file"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_says_what_was_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_by_shape, "_found", {})  # it is said once
    file = experiment(tmp_path, unlisted("stablelm", EQUAL["stablelm"]))
    assert main(["train", file]) == 0
    said = capsys.readouterr()
    assert "note: stablelm has no family file; found by its shape: blocks layers, final norm norm" in said.err
    (manifest,) = (tmp_path / "runs").glob("*/manifest.json")
    assert '"family_by_shape": "blocks layers, final norm norm' in manifest.read_text("utf-8")


def test_a_base_is_rebuilt_elsewhere_with_what_was_found():
    config = unlisted("stablelm", EQUAL["stablelm"])
    base = as_base(AutoModelForCausalLM.from_config(config), by_shape(config), "x", "random")
    assert put_together(*take_apart(base)).family.by_shape == base.family.by_shape


def test_the_page_lists_what_was_tried():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "model-files.md").read_text("utf-8")
    table = page.partition("## A model of no known family")[2].partition("\n## ")[0]
    named = {name for row in table.splitlines() if row.startswith("|") for name in re.findall(r"`([^`]+)`", row)}
    assert {*EQUAL, *DIFFERENT, *REFUSED} <= named
