"""An embedding by the row gives what the table gives, bit for bit, and holds the rows of its tokens alone."""

import copy
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.devices import GPU
from support.slow import slow_but
from support.tiny_models import CONFIGS, tiny_model
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import ResourceError
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import as_base, load_base
from atlas_cli.models.frozen.row_embedding import RowEmbedding, TableFile, by_rows, row_embeddings
from atlas_cli.models.frozen.table_files import table_file
from atlas_cli.models.halves.split import run_half

HELD = torch.tensor([0, 5, 6, 7, 9, 20])
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
KNOWN = torch.tensor([[5, 6, 7, 9, 20, 5], [9, 9, 6, 5, 0, 0]])
UNSEEN = torch.tensor([[5, 6, 30, 9, 20, 41], [9, 41, 6, 5, 0, 0]])


def rows_of_tiny(family, folder):
    base = as_base(tiny_model(family), family_of(CONFIGS[family]().model_type), family, "random")
    table = base.model.get_input_embeddings().weight
    save_file({"t": table.detach().clone()}, folder / "t.safetensors")
    return base, by_rows(base, HELD, TableFile.at(folder / "t.safetensors", "t", torch.float32))


@pytest.mark.parametrize("family", slow_but(CONFIGS, "gpt2", "bert"))
def test_activations_are_those_of_the_table_also_for_tokens_whose_rows_are_not_held(family, tmp_path):
    base, own = rows_of_tiny(family, tmp_path)
    (embedding,) = row_embeddings(own.model)
    for tokens, read in ((KNOWN, 0), (UNSEEN, 3)):
        whole = run_half(base.client_half(2), MASK, input_ids=tokens)
        assert torch.equal(run_half(own.client_half(2), MASK, input_ids=tokens), whole)
        assert embedding.read == read
    assert own.dtype == base.dtype and [t.shape[0] for t in embedding.held.parameters()] == [len(HELD)]
    table = base.model.get_input_embeddings().weight
    held = [*own.model.parameters(), *(own.lm_head.parameters() if own.lm_head is not None else ())]
    assert not any(t is table for t in held)
    assert isinstance(base.model.get_input_embeddings(), nn.Embedding)  # the base keeps its table


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_subclass_computes_what_it_computes_and_a_copy_for_another_process_too(device, tmp_path):
    scaled = Gemma3TextScaledWordEmbedding(50, 8, padding_idx=49, embed_scale=3.0).to(device, torch.bfloat16)
    save_file({"e": scaled.weight.detach().float().cpu()}, tmp_path / "f.safetensors")
    own = RowEmbedding(scaled, HELD, TableFile.at(tmp_path / "f.safetensors", "e", torch.bfloat16))
    for made in (own, copy.deepcopy(own)):
        for tokens in (KNOWN, UNSEEN):
            assert torch.equal(made(tokens.to(device)), scaled(tokens.to(device)))
    rows, tokens, scale = own.only(torch.tensor([5, 20]))
    assert (
        torch.equal(rows, scaled.weight[[5, 20]])
        and rows.device.type == device
        and tokens.tolist() == [5, 20]
        and scale.numel() == 1
    )


def test_the_table_is_the_models_own_file_which_is_not_held_open(model_folder, tmp_path):
    model = ModelConfig(name=str(shutil.copytree(model_folder("llama"), tmp_path / "llama")))  # nobody else maps it
    found = table_file(model, load_base(model))
    assert found[:2] == (tmp_path / "llama" / "model.safetensors", "model.embed_tokens.weight")
    found.rows(torch.tensor([1]))
    maps = Path("/proc/self/maps")
    assert not maps.exists() or os.fspath(found.path) not in maps.read_text(encoding="utf-8")
    # rows go through the dtype in which the model has its table
    narrow = ModelConfig(name=model.name, dtype="bfloat16")
    base = load_base(narrow)
    rows = table_file(narrow, base).rows(HELD)
    assert rows.dtype == torch.bfloat16
    assert torch.equal(rows, base.model.get_input_embeddings().weight[HELD])


def test_a_table_that_no_file_has_is_written_to_one(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path))
    model = ModelConfig(name="gpt2", init="random", config={"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 50})
    base = load_base(model)
    found = table_file(model, base)
    assert tmp_path in found.path.parents and table_file(model, base) == found
    assert torch.equal(found.rows(HELD), base.model.get_input_embeddings().weight[HELD])


@pytest.mark.parametrize(("harm", "why"), [("changed", "it was changed"), ("gone", "No such file")])
def test_a_file_that_is_not_what_it_was_is_not_read(harm, why, tmp_path):
    _, own = rows_of_tiny("gpt2", tmp_path)
    path = tmp_path / "t.safetensors"
    path.unlink() if harm == "gone" else path.write_bytes(path.read_bytes() + b" ")
    run_half(own.client_half(2), MASK, input_ids=KNOWN)
    with pytest.raises(ResourceError, match=f"t.safetensors.*cannot be used: {why}"):
        run_half(own.client_half(2), MASK, input_ids=UNSEEN)
