"""Models of runs with quantised weights: read again as they were, and exported on the base as it was loaded."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support.trained_runs import recorded, scores

from atlas_cli.cli import main
from atlas_cli.inference.export.to_folder import export
from atlas_cli.inference.loaded_model import open_model
from atlas_cli.models.adapters.origin import read_origin

pytestmark = pytest.mark.slow
CHANGES = {"model": {"quantization": "nf4"}, "clients": {"a": {"quantization": "none"}, "b": {"quantization": "int8"}}}


@pytest.fixture(scope="module")
def run(make_toy_run):
    return make_toy_run("instruction", **CHANGES)


def test_it_is_read_as_it_was(run):
    loaded = open_model(run.path)
    assert loaded.halves.lower is loaded.halves.upper is loaded.base and loaded.base.quantization == "nf4"
    assert scores(loaded) == pytest.approx(recorded(run, 2), rel=1e-5, abs=1e-6)
    formats = {name: open_model(run.path, client=name).halves for name in ("a", "b-1")}
    assert {name: h.lower.quantization for name, h in formats.items()} == {"a": "none", "b-1": "int8"}
    assert all(halves.upper.quantization == "nf4" for halves in formats.values())
    folders = {"groups/g": "nf4", "clients/a": "none", "clients/b-1": "int8"}
    assert {f: read_origin(run.path / "adapters" / f).quantization for f in folders} == folders
    assert "quantization" not in json.loads((run.path / "adapters/clients/a/origin.json").read_text(encoding="utf-8"))
    model = run.read_json("manifest.json")["model"]
    assert (model["quantization"], model["client_quantization"]["b-1"]) == ("nf4", "int8")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("form", ["merged", "peft"])
def test_an_export_has_the_bases_own_weights_and_says_how_far_the_run_is(run, tmp_path, form):
    loaded = open_model(run.path, client="b-1")
    found = export(loaded, tmp_path / "out", form)
    assert found.agreement.tolerance == 1e-5 >= found.agreement.difference
    assert found.quantized.difference > 100 * found.agreement.difference
    said = json.loads((tmp_path / "out/export.json").read_text(encoding="utf-8"))["quantization"]
    assert (said["below_the_cut"], said["above_the_cut"]) == ("int8", "nf4")
    assert said["difference"] == found.quantized.difference
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "quantised weights (below the cut int8, above nf4); here are those of the base itself" in card
    assert "the logits of the run's adapters on this base" in card
    if form == "merged":
        weights, source = load_file(tmp_path / "out/model.safetensors"), loaded.unquantized().base.model.state_dict()
        assert torch.equal(weights["model.layers.3.mlp.up_proj.weight"], source["layers.3.mlp.up_proj.weight"])


def test_the_commands_take_it(run, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"prompt": "the film was"}\n', encoding="utf-8")
    assert main(["evaluate", str(run.path), "--merged"]) == 0
    assert "here are not" in capsys.readouterr().out.replace("\n", " ")
    asked = ["generate", str(run.path), "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "o.jsonl")]
    assert main([*asked, "--client", "b-1", "--max-new-tokens", "3"]) == 0
