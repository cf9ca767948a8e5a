"""A run goes on, and is audited, with what it was started with: model, tokenizer, rows and code, or not at all."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from atlas_cli.aggregation.methods import delta_svd
from atlas_cli.cli import main
from atlas_cli.experiment import run_inputs as inputs
from atlas_cli.models.files.tokenizer_file import tokenizer_parts


def edited(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def swap_words(tokenizer):
    words = tokenizer["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]


HARM = {
    "activation": (
        lambda f: edited(f / "model/config.json", lambda c: c.update(hidden_act="relu")),
        'model/config.json: hidden_act was "gelu", is "relu"; restore it',
    ),
    "norm": (
        lambda f: edited(f / "model/config.json", lambda c: c.update(layer_norm_eps=1e-3)),
        "model/config.json: layer_norm_eps was 1e-12, is 0.001; restore it",
    ),
    "vocabulary": (
        lambda f: edited(f / "model/tokenizer.json", swap_words),
        "the tokenizer is not what it was (changed: FOLDER/model/tokenizer.json): vocabulary and rules was ",
    ),
    "a row": (
        lambda f: (f / "data.csv").write_text(
            (f / "data.csv").read_text(encoding="utf-8").replace("good 3,", "fine 3,"), encoding="utf-8"
        ),
        "the data of task group g is not what it was: sha256 was ",
    ),
}


@pytest.fixture
def stopped(write, train, at_step, model_folder, tmp_path):
    """A run that was interrupted, of a model and data that may be changed."""

    def stop():
        raise KeyboardInterrupt

    shutil.copytree(model_folder("bert"), tmp_path / "model")
    path = write()
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["model"]["name"] = str(tmp_path / "model")
    path.write_text(yaml.safe_dump({**config, "audit": {"record": {"rounds": [1]}}}, sort_keys=False), encoding="utf-8")
    at_step(3, stop)
    code, run = train(path)
    assert code == 130
    return run


@pytest.mark.slow
def test_what_has_changed_is_named(stopped, capsys, tmp_path, monkeypatch):
    kept = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-kept")
    whole = {path: path.read_bytes() for path in stopped.path.rglob("*") if path.is_file()}

    def refused(says):
        for command, code in (["train", "--resume"], 2), (["audit"], 3):
            capsys.readouterr()
            assert main([*command, str(stopped.path)]) == code
            (line,) = capsys.readouterr().err.splitlines()
            assert says in line.replace(str(tmp_path), "FOLDER")
        same = {path: path.read_bytes() for path in stopped.path.rglob("*") if path.is_file() and path in whole}
        assert same == whole

    for harm, says in HARM.values():
        harm(tmp_path)
        refused(says)
        for name in ("model", "data.csv"):
            shutil.rmtree(tmp_path / name) if (tmp_path / name).is_dir() else (tmp_path / name).unlink()
            copy = shutil.copytree if (kept / name).is_dir() else shutil.copy
            copy(kept / name, tmp_path / name)

    other = tmp_path / "delta_svd.py"
    other.write_text(f"{Path(delta_svd.__file__).read_text(encoding='utf-8')}\nFURTHER = 1\n", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(delta_svd, "__file__", str(other))
        refused("code that computes has changed: aggregation/")

    manifest = stopped.read_json("manifest.json")
    versions = {**manifest["versions"], "torch": "1.0", "numpy": "1.0"}
    stopped.write_json("manifest.json", {**manifest, "versions": versions})
    assert main(["train", "--resume", str(stopped.path)]) == 0  # other versions of packages are said, not refused
    out = capsys.readouterr().out
    assert "warning: torch 1.0 is now 2" in out and "numpy 1.0 is now" in out


def test_a_config_or_manifest_that_was_edited_is_named(stopped, capsys):
    """The audit's attacker would otherwise hold other adapters than the run's."""
    path = stopped.path / "config.yaml"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("alpha: 16.0", "alpha: 8.0"), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != before
    assert main(["audit", str(stopped.path)]) == 3
    assert f"{path}: lora.alpha is 8.0, and the run was made with 16.0; restore it" in capsys.readouterr().err
    path.write_text(before, encoding="utf-8")
    path = stopped.path / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"train": ', '"train": 1'), encoding="utf-8")
    for command in (["train", "--resume"], ["audit"], ["memory-report"]):
        assert main([*command, str(stopped.path)]) == 3
        assert f"{path} is damaged: it is not what was written (by hash)" in capsys.readouterr().err


def test_a_template_that_tells_the_time_gives_other_tokens():
    """What a row became as tokens counts, whatever decided it."""
    one = inputs._sha256_features([{"input_ids": [1, 2], "labels": [-100, 2]}])
    assert one != inputs._sha256_features([{"input_ids": [1, 3], "labels": [-100, 2]}])
    assert one != inputs._sha256_features([{"input_ids": [1], "labels": [2, -100, 2]}])
    assert one == inputs._sha256_features([{"labels": [-100, 2], "input_ids": [1, 2]}])


def test_parts_of_a_tokenizer(tmp_path, model_folder):
    from transformers import AutoTokenizer

    folder = shutil.copytree(model_folder("gpt2"), tmp_path / "model")
    before = tokenizer_parts(AutoTokenizer.from_pretrained(folder))
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    assert tokenizer_parts(AutoTokenizer.from_pretrained(elsewhere)) == before
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    after = tokenizer_parts(AutoTokenizer.from_pretrained(folder))
    assert {name for name in after if after[name] != before[name]} == {"chat template"}
