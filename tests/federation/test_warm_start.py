"""A task group that starts from an adapter predicts as stock PEFT, or as the run that left it; all else is refused."""

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from atlas_cli.errors import AtlasError, ConfigError, ResourceError
from atlas_cli.experiment.adapter_export import export_adapters
from atlas_cli.federation.warm_start import check_adapters, check_heads
from atlas_cli.models.adapters.peft_reading import read_peft
from atlas_cli.planning.plan import make_plan
from atlas_cli.runs.directory import RunDirectory

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),  # as PEFT says of a name of no model
]


def randomised(federation, seed=3):
    """The same federation with adapters and heads that predict something."""
    generator = torch.Generator().manual_seed(seed)
    held = [federation.server.heads["g"], *federation.server.groups["g"].adapters.adapters.values()]
    with torch.no_grad():
        for module in (*held, *federation.aggregator.groups["g"].adapters.adapters.values()):
            for parameter in (p for p in module.parameters() if p.requires_grad):
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return federation


def exported(federation, folder):
    export_adapters(federation, RunDirectory(folder))
    return folder / "adapters/groups/g"


def scores(federation):
    """The group's metrics as round 0 has them."""
    group = federation.data["g"]
    return federation.evaluator(group.task, group.test, federation.models_of_group("g")["g"])


def group(**changes):
    return {"task_groups": {"g": {name: str(value) if name == "adapter" else value for name, value in changes.items()}}}


@pytest.mark.slow
def test_classes_in_another_order_are_matched_by_name(make_federation, tmp_path):
    left = randomised(make_federation(**group(classes=["pos", "neg"])))
    folder = exported(left, tmp_path)
    started = make_federation(**group(classes=["neg", "pos"], adapter=folder))
    assert scores(started) == pytest.approx(scores(left), abs=1e-6)
    theirs, mine = (f.server.heads["g"].classifier for f in (left, started))
    assert torch.equal(mine.weight, theirs.weight[[1, 0]]) and torch.equal(mine.bias, theirs.bias[[1, 0]])
    with torch.no_grad():  # by position it would be another model
        mine.weight.copy_(theirs.weight), mine.bias.copy_(theirs.bias)
    assert scores(started)["loss"] != pytest.approx(scores(left)["loss"], rel=0.1)
    assert started.warm_starts["g"].note("g") == f"g starts from {folder}, base the same by hash, head by class name"


@pytest.mark.slow
def test_an_order_of_classes_that_cannot_be_changed(make_federation, tmp_path, monkeypatch):
    folder = exported(make_federation(**group(classes=["pos", "neg"])), tmp_path)
    monkeypatch.setattr("atlas_cli.federation.warm_start.Classifier", torch.nn.Conv1d)  # a head of another layer
    make_federation(**group(classes=["pos", "neg"], adapter=folder))
    with pytest.raises(ConfigError, match=r"order \['pos', 'neg'\], and classifier.weight cannot be reordered"):
        make_federation(**group(classes=["neg", "pos"], adapter=folder))


def rewrite(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def reshape(folder, **tensors):
    save_file({**load_file(folder / "head.safetensors"), **tensors}, folder / "head.safetensors")


HARM = {
    "other classes": (
        lambda f: rewrite(f / "origin.json", classes=["neg", "good"]),
        "has the classes ['neg', 'good'], this group ['neg', 'pos']",
    ),
    "other task": (
        lambda f: rewrite(f / "origin.json", task="token-classification"),
        "is of token-classification, and",
    ),
    "other pooling": (lambda f: rewrite(f / "origin.json", pooling="last"), "reads pooling last, this group mean"),
    "classes unknown": (lambda f: (f / "origin.json").unlink(), "head.safetensors without origin.json, so that nobody"),
    "another parameter": (lambda f: reshape(f, x=torch.ones(1)), "x of the head is in"),
    "another shape": (
        lambda f: reshape(f, **{"classifier.bias": torch.ones(3)}),
        "classifier.bias of the head in",
    ),
    "another base": (lambda f: rewrite(f / "origin.json", sha256="0" * 64), "give the base that it was trained on"),
    "a scale beyond float32": (lambda f: rewrite(f / "adapter_config.json", lora_alpha=1e300), "is beyond float32"),
}


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARM)
def test_a_head_or_base_that_is_not_this_groups(make_federation, tmp_path, harm):
    folder = exported(randomised(make_federation()), tmp_path)
    (folder / "SHA256SUMS").unlink()
    change, says = HARM[harm]
    change(folder)
    with pytest.raises(AtlasError) as error:
        make_federation(**group(adapter=folder))
    assert says in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_weights_drawn_at_random_are_not_called_by_a_published_name(make_federation, tmp_path):
    drawn = {"model": {"name": "gpt2", "init": "random", "config": {"n_layer": 4, "n_embd": 32, "n_head": 4}}}
    drawn["model"] |= {"tokenizer": make_federation("gpt2").config.model.name}
    left = randomised(make_federation(seed=5, **drawn))
    folder = exported(left, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == f"random weights of gpt2 (seed 5, sha256 {left.base.sha256[:16]})"
    assert scores(make_federation(seed=5, **drawn, **group(adapter=folder))) == scores(left)
    with pytest.raises(
        ResourceError, match=r"was trained on random weights of gpt2 \(seed 5, .* and this run has gpt2"
    ):
        make_federation(seed=6, **drawn, **group(adapter=folder))
    model = left.base.model
    loaded = peft.PeftModel.from_pretrained(model, str(folder))
    assert loaded.peft_config["default"].r == 4
    loaded.save_pretrained(tmp_path / "again")
    with pytest.raises((OSError, ValueError)):  # nobody gets published weights in silence
        peft.AutoPeftModel.from_pretrained(str(folder))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_round_0_is_what_stock_peft_computes(make_federation, lines, tmp_path, family):
    """An adapter that PEFT made, over both halves, with ranks and scales by layer."""
    plain = make_federation(family, task_groups=lines)
    model = AutoModelForCausalLM.from_pretrained(plain.config.model.name).eval()
    target = {"gpt2": "c_attn", "llama": "q_proj"}[family]
    options = {"rank_pattern": {rf".*\.1\..*{target}": 1}, "alpha_pattern": {rf".*\.[23]\..*{target}": 5}}
    options |= {"fan_in_fan_out": family == "gpt2", "target_modules": [target], "use_rslora": True}
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", **options)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / "peft")
    started = make_federation(family, task_groups={"g": {**lines["g"], "adapter": str(tmp_path / "peft")}})
    losses, count = 0.0, 0
    for feature in started.data["g"].test:
        ids, labels = torch.tensor([feature["input_ids"]]), torch.tensor(feature["labels"])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0]
        losses += functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum").item()
        count += int((labels[1:] != -100).sum())
    assert scores(started)["loss"] == pytest.approx(losses / count, rel=1e-5) != scores(plain)["loss"]
    note = started.warm_starts["g"].note("g")
    assert note.startswith("warning: ") and "base unknown, head new" in note
    assert len(read_peft(tmp_path / "peft", started.base)) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_a_plan_says_of_an_adapter_is_what_a_run_says(make_config, make_federation, lines, tmp_path):
    plain = make_federation("llama", task_groups=lines)
    model = AutoModelForCausalLM.from_pretrained(plain.config.model.name)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "whole", save_embedding_layers=True)
    groups = {"g": {**lines["g"], "adapter": str(tmp_path / "whole")}}
    check_adapters(make_plan(make_config("llama", task_groups=groups)))
    make_federation("llama", task_groups=groups)

    left = make_federation(**group(classes=["pos", "neg"]))
    folder = exported(left, tmp_path)
    plan = make_plan(make_config(**group(adapter=folder)))
    check_adapters(plan), check_heads(plan, left.data)
    (folder / "SHA256SUMS").unlink()
    rewrite(folder / "origin.json", classes=["good", "neg"])
    with pytest.raises(ConfigError, match=r"has the classes \['good', 'neg'\], this group \['pos', 'neg'\]"):
        check_heads(plan, left.data)


@pytest.mark.slow
def test_a_copy_without_head_starts_with_a_new_one(make_federation, tmp_path):
    left = randomised(make_federation())
    folder = shutil.copytree(exported(left, tmp_path), tmp_path / "copy")
    for name in ("head.safetensors", "SHA256SUMS"):
        (folder / name).unlink()
    started = make_federation(**group(adapter=folder))
    assert torch.equal(
        started.server.heads["g"].classifier.weight, make_federation().server.heads["g"].classifier.weight
    )
    assert started.warm_starts["g"].record()["head"] == "new"
