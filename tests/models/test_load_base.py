"""Loading a base: exact weights or an error, never something in between."""

import copy
import itertools
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.gguf_writer import write_llama
from support.tiny_models import CAUSAL, FAMILIES, tiny_model
from transformers import LlamaModel

from atlas_cli import tasks
from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import AtlasError, ConfigError, ResourceError
from atlas_cli.extras import install_command
from atlas_cli.models.files import gguf_files, resolve
from atlas_cli.models.frozen.load import load_base, load_tokenizer, require_weights, shared_base
from atlas_cli.models.halves.split import run_half


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(resolve, "hub_reachable", lambda: False)


def load(name, seed=0, **keys):
    return load_base(ModelConfig.model_validate({"name": str(name), **keys}), seed=seed)


@pytest.fixture
def damaged(model_folder, tmp_path):
    """A copy of the tiny LLaMA folder, whose weights ``change`` may edit."""

    def make(change=None, family="llama"):
        folder = Path(shutil.copytree(model_folder(family), tmp_path / "model"))
        if change:
            tensors = load_file(folder / "model.safetensors")
            change(tensors)
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["model.layers.2.mlp.up_proj.weight", "lm_head.weight"])
def test_weights_that_are_not_finite_are_refused_by_name(damaged, name, value):
    folder = damaged(lambda tensors: tensors[name][1:2, 3].fill_(value))
    with pytest.raises(
        ResourceError, match=rf"damaged: {name.removeprefix('model.')} holds values that are not finite"
    ):
        load(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_its_very_weights(family, model_folder, offline):
    base = load(model_folder(family))
    whole = tiny_model(family)
    wanted = (whole.base_model if family in CAUSAL else whole).state_dict()
    held = base.model.state_dict()
    assert {n for n in wanted.keys() - held.keys() if not n.startswith("pooler")} == set()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in held.items())
    assert (base.lm_head is not None) == (family in CAUSAL)
    if base.lm_head is not None:
        assert torch.equal(base.lm_head.weight, whole.get_output_embeddings().weight)
    assert not base.model.training and not any(p.requires_grad for p in base.model.parameters())
    assert (base.init, base.n_layers, base.hidden_size, base.name) == ("pretrained", 4, 32, model_folder(family))


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_bfloat16(family, model_folder, offline):
    base = load(model_folder(family), dtype="bfloat16")
    wanted = load(model_folder(family)).model.state_dict()
    assert all(torch.equal(t, wanted[n].bfloat16()) for n, t in base.model.state_dict().items())


def test_the_hash_is_of_all_weights(model_folder, damaged):
    plain = load(model_folder("llama")).sha256
    assert plain == load(model_folder("llama")).sha256
    other = damaged(lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))
    assert load(other).sha256 != plain


def test_pickled_weights_are_not_read(model_folder, damaged, offline):
    folder = damaged()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ResourceError) as error:
        load(folder)
    message = str(error.value)
    assert message.startswith(f"model.name: weights of {folder} cannot be read: ")
    assert message.endswith("(atlas reads safetensors only)") and "\n" not in message


def test_damaged_weights(damaged):
    folder = damaged()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(ResourceError, match=f"model.name: weights of {folder} cannot be read: "):
        load(folder)


@pytest.mark.parametrize(
    ("drop", "named", "more"),
    [
        (["model.layers.2.mlp.up_proj.weight"], "layers.2.mlp.up_proj.weight", ""),
        (["model.norm.weight", "model.embed_tokens.weight"], "embed_tokens.weight", ", and 1 more"),
        (["model.norm.weight", "lm_head.weight"], "lm_head.weight", ", and 1 more"),
    ],
)
def test_missing_weights_are_an_error_and_not_random_numbers(damaged, drop, named, more):
    folder = damaged(lambda t: [t.pop(name) for name in drop])
    with pytest.raises(ResourceError) as error:
        load(folder)
    assert str(error.value).startswith(f"model.name: weights of {folder} are incomplete: ")
    assert str(error.value).endswith(f"{named} is missing{more}")


def test_weights_of_an_encoder_that_are_missing(damaged):
    folder = damaged(lambda t: t.pop("encoder.layer.3.output.dense.bias"), "bert")
    with pytest.raises(ResourceError, match=r"incomplete: encoder\.layer\.3\.output\.dense\.bias is missing$"):
        load(folder)


def test_a_pooler_may_be_missing(damaged):
    folder = damaged(lambda t: [t.pop(name) for name in list(t) if name.startswith("pooler")], "bert")
    assert load(folder).model.pooler is None


def test_a_decoder_without_its_output_embedding_serves_all_tasks_but_language_modelling(tmp_path):
    tiny_model("llama").model.save_pretrained(tmp_path)
    base = load(tmp_path)
    assert isinstance(base.model, LlamaModel) and base.lm_head is None
    tasks.build("sequence-classification", ["a", "b"]).build_head(base.hidden_size, base.lm_head)
    with pytest.raises(ConfigError, match="the model has no output embedding"):
        tasks.build("causal-lm").build_head(base.hidden_size, base.lm_head)


def test_weights_of_another_size(damaged):
    folder = damaged(lambda t: t.update({"model.layers.0.mlp.down_proj.weight": torch.zeros(3, 5)}))
    with pytest.raises(ConfigError) as error:
        load(folder)
    assert str(error.value) == (
        "model.name: weights do not fit the architecture: model.layers.0.mlp.down_proj.weight is (3, 5), "
        "and config.json asks for (32, 48)"
    )


def sharded(folder, names):
    """The weights of a folder under an index that gives these names for their file."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    file.rename(folder / "model-00001-of-00001.safetensors")
    files = itertools.cycle(names)
    index = {"metadata": {"total_size": 1}, "weight_map": {name: next(files) for name in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("pytorch_model.bin", "names pytorch_model.bin; atlas reads safetensors only"),
        ("model.pt", "names model.pt; atlas reads safetensors only"),
        ("../other/model.safetensors", "names ../other/model.safetensors, which is not beside it"),
        ("..\\\\model.safetensors", "which is not beside it"),
        ("/etc/model.safetensors", "names /etc/model.safetensors, which is not beside it"),
        ("model-00002-of-00002.safetensors", "names model-00002-of-00002.safetensors, which is not there"),
    ],
)
def test_an_index_names_safetensors_beside_it_or_nothing_is_opened(named, why, damaged, monkeypatch):
    folder = damaged()
    sharded(folder, ["model-00001-of-00001.safetensors", named.replace("\\\\", "\\")])
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("pickle was opened"))
    for check in (load, lambda name: require_weights(ModelConfig.model_validate({"name": str(name)}))):
        with pytest.raises(AtlasError) as error:
            check(folder)
        assert why in str(error.value) and "index.json" in str(error.value)


def test_shards_are_read(damaged, model_folder):
    folder = damaged()
    sharded(folder, ["model-00001-of-00001.safetensors"])
    assert load(folder).sha256 == load(model_folder("llama")).sha256


@pytest.mark.parametrize(
    ("family", "more", "named"),
    [
        (
            "bert",
            {"encoder.layer.0.attention.self.distance_embedding.weight": torch.ones(127, 8)},
            "distance_embedding",
        ),
        ("bert", {"rel_pos_bias.weight": torch.ones(3)}, "has no place for rel_pos_bias.weight;"),
        ("bert", {"embeddings.position_ids": torch.arange(64).flip(0)[None]}, "position_ids is not what transformers"),
        ("llama", {"model.layers.1.self_attn.q_norm.weight": torch.ones(8)}, r"layers\.1\.self_attn\.q_norm\.weight"),
        ("llama", {"model.layers.4.mlp.up_proj.weight": torch.ones(48, 32)}, r"layers\.4\.mlp"),
        ("llama", {"model.rotary_emb.inv_freq": torch.ones(4)}, "inv_freq is not what transformers computes"),
        ("llama", {"layers.0.mlp.up_proj.weight": torch.ones(48, 32)}, "is there twice, also as model.layers.0.mlp"),
        (
            "llama",
            {"model.norm.weight": torch.ones(32, dtype=torch.int8)},
            "model.norm.weight holds I8; atlas reads fl",
        ),
        ("gpt2", {"lm_head.weight": torch.ones(53, 32)}, "tie_word_embeddings: true"),
    ],
)
def test_tensors_that_the_model_would_not_use_are_refused_by_name(family, more, named, damaged):
    folder = damaged(lambda tensors: tensors.update(more), family)
    with pytest.raises(ConfigError, match=named) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_heads_are_left_out_and_listed(damaged):
    more = {"classifier.weight": torch.ones(2, 32), "cls.predictions.bias": torch.ones(53)}
    folder = damaged(lambda tensors: tensors.update(more), "bert")
    base = load(folder)
    assert base.left_out == ("classifier.weight", "cls.predictions.bias", "pooler.dense.bias", "pooler.dense.weight")
    buffers = {"embeddings.position_ids": torch.arange(64)[None]}
    shutil.rmtree(folder)
    assert load(damaged(lambda tensors: tensors.update(buffers), "bert")).sha256 == base.sha256


def test_settings_of_generation_are_not_read(damaged, model_folder):
    folder = damaged()
    (folder / "generation_config.json").write_text("[]", encoding="utf-8")
    assert load(folder).sha256 == load(model_folder("llama")).sha256


def test_a_distributed_checkpoint_is_refused(damaged):
    folder = damaged()
    (folder / "model.safetensors").rename(folder / "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(ConfigError, match="is a part of a distributed checkpoint"):
        load(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_depend_on_the_seed_alone(family, model_folder, offline):
    folder = model_folder(family)
    state = torch.get_rng_state()
    base, again, other = (load(folder, seed, init="random") for seed in (0, 0, 1))
    assert base.init == "random (as configured)"
    assert base.sha256 == again.sha256 != other.sha256
    assert base.sha256 != load(folder).sha256
    assert torch.equal(torch.get_rng_state(), state), "the global generator must not be moved"
    ids = torch.tensor([[5, 6, 7]])
    mask = torch.ones_like(ids)
    assert torch.isfinite(run_half(base.model, mask, input_ids=ids)).all()


def test_random_weights_of_a_changed_architecture(offline):
    base = load("gpt2", init="auto", config={"n_layer": 3, "n_embd": 24, "n_head": 2, "vocab_size": 40})
    assert base.init == "random (weights could not be reached)"
    assert base.n_layers == len(base.model.h) == 3
    assert base.model.wte.weight.shape == (40, 24)
    assert base.lm_head.weight is base.model.wte.weight


def test_changed_sizes_that_do_not_fit_together(offline):
    with pytest.raises(ConfigError, match=r"^model\.config: the model cannot be built: .*divisible by num_heads"):
        load("gpt2", init="random", config={"n_head": 5, "n_layer": 1, "vocab_size": 40})


def test_one_base_a_process_for_the_same_model(model_folder):
    cpu = torch.device("cpu")
    name = model_folder("llama")
    assert shared_base(name, "pretrained", cpu, 0) is shared_base(name, "pretrained", cpu, 0)
    assert shared_base(name, "random", cpu, 0).sha256 != shared_base(name, "random", cpu, 1).sha256


def tokenizer_of(name, **keys):
    return load_tokenizer(ModelConfig.model_validate({"name": str(name), **keys}))


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_tokenizer_of_the_folder(family, model_folder, offline):
    tokenizer = tokenizer_of(model_folder(family))
    ids = tokenizer("the film")["input_ids"]
    assert ids == ([5, 7] if family == "gpt2" else [2, 5, 7, 3])
    assert tokenizer.padding_side == "right"


def test_a_tokenizer_from_elsewhere(model_folder, offline):
    tokenizer = tokenizer_of("gpt2", tokenizer=model_folder("bert"))
    assert tokenizer("the")["input_ids"] == [2, 5, 3]


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "qwen2", "roberta"])
def test_no_tokenizer(family, damaged, offline):
    folder = damaged(family=family)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    for keys, key in (({}, "model.name"), ({"tokenizer": str(folder)}, "model.tokenizer")):
        with pytest.raises(ResourceError) as error:
            tokenizer_of(folder, **keys)
        assert str(error.value).startswith(
            f"{key}: no tokenizer for {str(folder)!r}; set model.tokenizer to a folder, hub id or packaged name "
            "(gpt2-bpe for GPT-2) ["
        )
        assert "\n" not in str(error.value)


def test_code_of_a_tokenizer_is_never_run(damaged, offline):
    folder = damaged()
    ran = folder / "ran"
    (folder / "tokenization_own.py").write_text(f"open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
    own = {"auto_map": {"AutoTokenizer": [None, "tokenization_own.Own"]}}  # beside a class of transformers
    (folder / "tokenizer_config.json").write_text(json.dumps(own), encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"model\.name: .*/tokenizer_config\.json: auto_map: .* never fetches or runs"
    ):
        tokenizer_of(folder)
    assert not ran.exists()


@pytest.mark.parametrize(("content", "why"), [("[]", "it holds a list"), ("{", "Expecting"), ("[" * 10**5, "too deep")])
def test_a_damaged_tokenizer_config(content, why, damaged, offline):
    folder = damaged()
    (folder / "tokenizer_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ResourceError, match=f"tokenizer_config.json: .*{why}"):
        tokenizer_of(folder)


@pytest.fixture
def gguf_file(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.gguf"
    write_llama(file, tiny_model("llama"))
    return file


def test_a_gguf_file_is_converted_once(gguf_file, offline, monkeypatch):
    base = load(gguf_file)
    whole = tiny_model("llama")
    held = base.model.state_dict()
    assert held.keys() == whole.model.state_dict().keys()
    assert all(torch.equal(tensor, held[name]) for name, tensor in whole.model.state_dict().items())
    assert torch.equal(base.lm_head.weight, whole.lm_head.weight)
    assert tokenizer_of(gguf_file)("the")["input_ids"] == [33]

    def fail(*_):
        raise AssertionError("converted twice")

    monkeypatch.setattr(gguf_files, "_convert", fail)
    assert load(gguf_file).sha256 == base.sha256
    assert load(gguf_file, dtype="bfloat16").model.dtype == torch.bfloat16
    assert [p.name.startswith("tiny-") for p in gguf_files.folder_of(gguf_file).parent.iterdir()] == [True]


def test_a_gguf_file_is_read_once_and_as_its_own_reader_reads_it(gguf_file, monkeypatch):
    """Making a reader takes seconds where the vocabulary is large, and transformers makes four."""
    import gguf

    made, own = [], gguf.GGUFReader
    plain = own(gguf_file)
    monkeypatch.setattr(own, "__init__", lambda self, *given, make=own.__init__: made.append(make(self, *given)))
    with gguf_files.read_once(gguf_file) as reader:
        assert gguf.GGUFReader("another") is reader
        assert [*reader.fields] == [*plain.fields]
        assert all(reader.fields[name].contents() == field.contents() for name, field in plain.fields.items())
        assert all(np.array_equal(a.data, b.data) for a, b in zip(reader.tensors, plain.tensors, strict=True))
    assert gguf.GGUFReader is own and len(made) == 1
    gguf_files.converted(gguf_file)
    assert len(made) == 2


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["flip", "manifest", "version"])
def test_a_conversion_that_is_not_what_was_written_is_made_anew(gguf_file, capsys, monkeypatch, harm):
    first = load(gguf_file).sha256
    folder = gguf_files.folder_of(gguf_file)
    weights = folder / "model.safetensors"
    if harm == "flip":  # the sign of one number: nothing but its hash would tell
        content = bytearray(weights.read_bytes())
        content[-1] ^= 0x80
        weights.write_bytes(content)
    elif harm == "manifest":
        (folder / ".atlas-manifest.json").unlink()
    else:
        monkeypatch.setattr(gguf_files.transformers, "__version__", "99")
    assert load(gguf_file).sha256 == first
    assert f"note: {folder} cannot be used (" in capsys.readouterr().err
    assert load(gguf_file).sha256 == first and not capsys.readouterr().err
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.slow
def test_a_changed_gguf_file_is_converted_anew(gguf_file):
    first = load(gguf_file).sha256
    whole = copy.deepcopy(tiny_model("llama"))
    with torch.no_grad():
        whole.model.norm.weight += 1
    write_llama(gguf_file, whole)
    assert load(gguf_file).sha256 != first


@pytest.mark.parametrize("content", [b"", b"junk" * 50, b"GGUF\x03\0\0\0" + b"\xff" * 50])
def test_a_damaged_gguf_file(content, gguf_file, tmp_path):
    gguf_file.write_bytes(content)
    with pytest.raises(ResourceError) as error:
        load(gguf_file)
    assert str(error.value).startswith(f"model.name: the config of {gguf_file} cannot be read: ")
    assert "\n" not in str(error.value)


def test_a_gguf_file_cut_short_leaves_nothing_in_the_cache(gguf_file):
    gguf_file.write_bytes(gguf_file.read_bytes()[:-20000])
    with pytest.raises(ResourceError):
        load(gguf_file)
    with pytest.raises(ResourceError, match=f"GGUF file {gguf_file} cannot be converted: "):
        gguf_files.converted(gguf_file)
    assert list(gguf_files.folder_of(gguf_file).parent.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _, weights: weights.pop("blk.1.ffn_up.weight"), "incomplete: model.layers.1.mlp.up_proj.weight"),
        (lambda _, weights: weights.update({"rope_freqs.weight": np.ones(4, np.float32)}), r"\(rope_freqs.weight\)"),
        (lambda writer, _: writer.add_rope_scaling_factor(4.0), r"\(llama.rope.scaling.factor\)"),
        (
            lambda _, weights: weights.update({"blk.0.more.weight": np.ones(4, np.float32)}),
            "of which transformers reads",
        ),
    ],
)
def test_what_transformers_would_pass_over_in_a_gguf_file_is_refused(change, why, gguf_file):
    write_llama(gguf_file, tiny_model("llama"), change)
    with pytest.raises(ResourceError, match=why):
        load(gguf_file)
    assert not list(gguf_files.folder_of(gguf_file).parent.glob("*"))


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_gguf_file_without_the_package_that_reads_it(package, gguf_file, monkeypatch):
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None if name == package else name)
    for read in (load, tokenizer_of):
        with pytest.raises(ResourceError) as error:
            read(gguf_file)
        assert str(error.value) == f"reading tiny.gguf needs the {package} package: {install_command('gguf')}"
