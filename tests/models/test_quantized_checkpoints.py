"""A checkpoint that is quantised already is refused by the name of the method, with what to take instead."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from atlas_cli.cli import main
from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.files.quantized_checkpoints import told_by
from atlas_cli.models.frozen.load import load_base

INSTEAD = (
    "atlas reads float weights and quantises them itself: take the model that this one was made from (base_model in "
    "its card) with model.quantization: "
)
GROUPS = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int"}}}
CONFIGS_OF = {
    "GPTQ to 4 bits; nf4": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "AWQ to 4 bits; nf4": {"quant_method": "awq", "bits": 4, "version": "gemm"},
    "bitsandbytes to 4 bits; nf4-double": {
        "quant_method": "bitsandbytes", "_load_in_4bit": True, "bnb_4bit_use_double_quant": True,
    },
    "bitsandbytes to 8 bits; int8": {"load_in_8bit": True, "load_in_4bit": False},
    "compressed-tensors to 8 bits; int8": {"quant_method": "compressed-tensors", "config_groups": GROUPS},
    "FP8 to 8 bits; int8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "MXFP4 to 4 bits; nf4": {"quant_method": "mxfp4"},
    "'new-one'; nf4": {"quant_method": "new-one"},
    "a method that is not named; nf4": {"bits": True, "config_groups": 3},
}  # fmt: skip


@pytest.mark.parametrize("expected", CONFIGS_OF)
def test_the_method_is_named_with_what_to_take(expected):
    method, _, nearest = expected.partition("; ")
    assert told_by(CONFIGS_OF[expected]) == f"the weights are quantised by {method}; {INSTEAD}{nearest}"
    assert "a method that is not named" in told_by(["gptq"])


def test_every_command_says_so(model_folder, tmp_path, capsys):
    folder = shutil.copytree(model_folder("llama"), tmp_path / "model")
    file = folder / "config.json"
    options = {**json.loads(file.read_text("utf-8")), "quantization_config": CONFIGS_OF["GPTQ to 4 bits; nf4"]}
    file.write_text(json.dumps(options), "utf-8")
    for command in (["split-point", str(folder)], ["init", str(folder), "--out", str(tmp_path / "x.yaml")]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert f"config.json: quantization_config: the weights are quantised by GPTQ to 4 bits; {INSTEAD}nf4\n" in said


@pytest.mark.parametrize(
    ("name", "tensor", "by"),
    [
        ("model.layers.0.mlp.down_proj.qweight", torch.zeros(2, 2, dtype=torch.int32), "I32, as GPTQ or AWQ writes it"),
        (
            "model.layers.0.mlp.down_proj.weight_packed",
            torch.zeros(2, dtype=torch.int32),
            "as compressed-tensors writes",
        ),
        (
            "model.layers.0.mlp.down_proj.weight.quant_state.bitsandbytes__nf4",
            torch.zeros(2, dtype=torch.uint8),
            "U8, as bitsandbytes writes it",
        ),
        ("model.layers.0.mlp.down_proj.scale", torch.zeros(2).to(torch.float8_e4m3fn), "F8_E4M3, as FP8 writes it"),
        ("model.layers.0.mlp.down_proj.other", torch.zeros(2, dtype=torch.int8), "holds I8; atlas reads float"),
    ],
)
def test_tensors_tell_where_the_config_does_not(name, tensor, by, model_folder, tmp_path):
    folder = shutil.copytree(model_folder("llama"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, name: tensor}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError) as error:
        load_base(ModelConfig.model_validate({"name": str(folder)}))
    assert name in str(error.value) and by in str(error.value) and str(error.value).endswith(f"{INSTEAD}nf4")
