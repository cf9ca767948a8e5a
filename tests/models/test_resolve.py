"""From a model's name to its config: what is found, what is refused, and how changes to a config follow through."""

import json
import socket
import time
from pathlib import Path

import pytest
from support.tiny_models import CONFIGS, FAMILIES
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.models.families import family_of
from atlas_cli.models.files import resolve
from atlas_cli.models.files.architectures import ALIASES, ARCHITECTURES, built_in
from atlas_cli.models.files.resolve import locate, model_config
from atlas_cli.planning.cuts.choice import get_split_point


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test here may open a connection; the hub answers nobody."""

    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(resolve, "hub_reachable", lambda: False)


def config_of(name, **keys):
    return model_config(ModelConfig.model_validate({"name": name, **keys}))


def folder_with(tmp_path, config):
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return str(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_local_folder(family, model_folder):
    config, source, init = config_of(model_folder(family))
    assert (source.path, source.kind, source.gguf_file) == (model_folder(family), "folder", None)
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == (family, 4, 32)
    assert init == "pretrained"


def test_a_folder_under_the_home_directory(model_folder, monkeypatch):
    folder = model_folder("gpt2")
    home, _, last = folder.rpartition("/")
    monkeypatch.setenv("HOME", home)
    assert locate(f"~/{last}").path == folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./no/such", "folder ./no/such does not exist; check the path, or give a hub id such as org/model"),
        ("/no/such", "folder /no/such does not exist; check the path, or give a hub id such as org/model"),
        ("a/b/c", "folder a/b/c does not exist; check the path, or give a hub id such as org/model"),
        ("no/such.gguf", "GGUF file no/such.gguf does not exist; check the path"),
    ],
)
@pytest.mark.parametrize("init", ["pretrained", "random", "auto"])
def test_a_path_that_does_not_exist(name, message, init):
    with pytest.raises(ResourceError) as error:
        config_of(name, init=init)
    assert str(error.value) == f"model.name: {message}"


@pytest.mark.parametrize("init", ["random", "auto"])
def test_a_path_is_never_taken_for_an_architecture(init, tmp_path):
    """A typing error in a path that ends in gpt2 must not train another model."""
    with pytest.raises(ResourceError, match="does not exist"):
        config_of("./models/gpt2", init=init)
    (tmp_path / "gpt2").mkdir()
    with pytest.raises(ResourceError, match=r"has no config\.json"):
        config_of(str(tmp_path / "gpt2"), init=init)
    assert built_in(str(tmp_path / "gpt2")) is None


def test_an_empty_folder(tmp_path):
    with pytest.raises(ResourceError) as error:
        config_of(str(tmp_path))
    assert str(error.value) == (
        f"model.name: folder {tmp_path} has no config.json; expected a folder that save_pretrained wrote"
    )


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolve._say.cache_clear()
    return tmp_path


@pytest.mark.parametrize("content", [None, "out", "tokenizer_config.json"])
def test_a_folder_without_a_model_does_not_hide_a_packaged_one(content, here, model_folder, monkeypatch, capsys):
    monkeypatch.setattr(resolve.packaged, "model_path", lambda name: Path(model_folder("bert")))
    (here / "minilm").mkdir()
    if content:
        (here / "minilm" / content).write_text("{}", encoding="utf-8")
    config, source, _ = config_of("minilm")
    assert (config.model_type, source.path, source.kind) == ("bert", model_folder("bert"), "packaged")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["minilm", "gpt2"])
def test_a_model_in_a_folder_of_a_known_name_is_taken_and_said(name, here, capsys):
    CONFIGS["gpt2"]().save_pretrained(here / name)
    for _ in range(2):
        config, source, _ = config_of(name)
        assert (config.n_layer, source.kind, source.path) == (4, "folder", name)
    assert capsys.readouterr().err == (
        f"note: model.name: {name} is the folder of that name here, not the model that atlas knows by it; "
        f"./{name} says so\n"
    )
    assert config_of(f"./{name}")[0].n_layer == 4
    assert capsys.readouterr().err == ""


def test_an_empty_folder_in_the_place_of_an_architecture(here):
    (here / "gpt2").mkdir()
    config, source, init = config_of("gpt2", init="random")
    assert (config.n_layer, source, init) == (12, None, "random (as configured)")
    assert get_split_point("gpt2") == 6
    for init in ("pretrained", "auto"):  # nobody has asked the hub
        with pytest.raises(ResourceError, match="or no folder of that name here, for the model gpt2 of the hub"):
            config_of("gpt2", init=init)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "config.json: Expecting property name enclosed in double quotes"),
        ("[]", "config.json: it holds a list, not an object"),
        ('{"model_type": "gpt2", "n_layer": 2, "n_layer": 3}', "config.json: the key 'n_layer' stands there twice"),
        ('{"model_type": "gpt2", "layer_norm_epsilon": NaN}', "config.json: NaN is not a number"),
        ('{"model_type": "gpt2", "n_layer": %s}' % ("9" * 5000), "config.json: Exceeds the limit"),
        ('{"model_type": "gpt2", "x": %s}' % ("[" * 60 + "]" * 60), "config.json: it is nested more than 40 deep"),
        ('{"x": %s}' % ("[" * 100000), "config.json: it is nested too deep"),
        ({"hidden_size": 3}, "Should have a `model_type` key in its config.json"),
        ({"model_type": "zork"}, "Transformers does not recognize this architecture"),
        ({"model_type": "gpt2", "n_layer": "four"}, "Field 'n_layer' expected int, got str (value: 'four')"),
    ],
)
@pytest.mark.parametrize("init", ["pretrained", "random", "auto"])
def test_a_config_that_cannot_be_read(config, reason, init, tmp_path):
    folder = folder_with(tmp_path, config)
    with pytest.raises(ResourceError) as error:
        config_of(folder, init=init)
    message = str(error.value)
    assert message.startswith(f"model.name: the config of {folder} cannot be read: ")
    assert reason in message and "\n" not in message and "hub" not in message


@pytest.mark.parametrize("inner", ["checkpoint-500", "0_Transformer"])
def test_a_folder_around_a_model_names_it(inner, tmp_path):
    CONFIGS["bert"]().save_pretrained(tmp_path / inner)
    with pytest.raises(ResourceError) as error:
        config_of(str(tmp_path))
    assert str(error.value) == (
        f"model.name: folder {tmp_path} has no config.json, but {tmp_path / inner} has one; give that folder"
    )


@pytest.mark.parametrize(
    ("family", "options", "named"),
    [
        ("llama", {"attn_implementation": "kernels-community/flash-attn"}, "attn_implementation: 'kernels-community/"),
        ("llama", {"_attn_implementation": "some/kernel@v1:attend"}, "_attn_implementation: 'some/kernel@v1:attend'"),
        ("llama", {"attn_implementation": "flash_attention_2"}, "attn_implementation: 'flash_attention_2'"),
        ("llama", {"attn_implementation": {"": "some/kernel"}}, "attn_implementation: {'': 'some/kernel'}"),
        ("llama", {"experts_implementation": "some/kernel"}, "experts_implementation: 'some/kernel'"),
        ("llama", {"kernel_config": {"RMSNorm": "some/kernel"}}, "kernel_config: {'RMSNorm': 'some/kernel'}"),
        ("llama", {"fusion_config": {"a": 1}}, "fusion_config: {'a': 1}"),
        ("llama", {"per_layer_config": {"0": {"hidden_act": "gelu"}}}, "per_layer_config: "),
        ("llama", {"transformers_weights": "adapter_model.bin"}, "transformers_weights: 'adapter_model.bin'"),
        ("llama", {"auto_map": {"AutoModel": "own.Own"}}, "auto_map: {'AutoModel': 'own.Own'}"),
        (
            "llama",
            {"quantization_config": {"quant_method": "gptq"}},
            "quantization_config: the weights are quanti",
        ),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5"),
        ("llama", {"is_causal": False}, "is_causal: False"),
        ("llama", {"rope_theta": 5.0}, "rope_theta: 5.0 is not the 10000.0 of rope_parameters"),
        ("gpt_neox", {"rotary_pct": 0.5}, "rotary_pct: 0.5 is not the 0.25 of rope_parameters.partial_rotary_factor"),
        ("gpt_neox", {"rotary_emb_base": 5}, "rotary_emb_base: 5 is not the 10000"),
        (
            "gpt_neox",
            {"rope_parameters": None, "rotary_pct": "0.25"},
            "rope_parameters.partial_rotary_factor: '0.25' is",
        ),
        ("llama", {"rope_parameters": {"rope_type": "spin", "rope_theta": 9.0}}, "rope_parameters.rope_type: 'spin'"),
        (
            "llama",
            {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": -2.0}},
            "rope_parameters.factor: -2.0 is not a number above 0",
        ),
        ("llama", {"num_attention_heads": 0}, "num_attention_heads: 0 is not a whole number from 1 on"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide num_attention_heads 4"),
        ("llama", {"pad_token_id": 1000}, "pad_token_id: 1000 has no row in an embedding of 53 (vocab_size)"),
        ("llama", {"vocab_size": 10**30}, "vocab_size: 1000000000000000000000000000000 is not a whole number"),
        ("mistral", {"sliding_window": 0}, "sliding_window: 0 is not a whole number"),
        ("qwen2", {"use_sliding_window": False}, "layer_types: 'sliding_attention' needs a sliding_window"),
        ("gpt2", {"n_layer": -1}, "n_layer: -1 is not a whole number"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention: True needs an encoder"),
        ("gpt2", {"activation_function": "gelu_neu"}, "activation_function: 'gelu_neu' is no activation function"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type: 'relative_key' is not impl"),
        ("bert", {"chunk_size_feed_forward": 3}, "chunk_size_feed_forward: 3 computes feed-forwards in chunks"),
        ("bert", {"pruned_heads": {"0": [1]}}, "pruned_heads: {'0': [1]} is not implemented by transformers 5"),
        ("bert", {"layer_norm_eps": -1.0}, "layer_norm_eps: -1.0 is not between 0 and 1"),
        ("roberta", {"pad_token_id": None}, "pad_token_id: None is needed"),
        ("gemma3_text", {"rope_theta": 5.0}, "rope_theta: 5.0 is not the 1000000.0 of rope_parameters.full_attention"),
        (
            "gemma3_text",
            {"rope_local_base_freq": 5},
            "rope_local_base_freq: 5 is not the 10000.0 of rope_parameters",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": {"rope_type": "spin"}}},
            "rope_parameters.full_attention.rope_type: 'spin' is not one of",
        ),
        ("gemma3_text", {"hidden_activation": "gelu_neu"}, "hidden_activation: 'gelu_neu' is no activation function"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention: True is not implemented"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers: [1, 0] has fewer entries than there are blocks (4)"),
        ("smollm3", {"use_sliding_window": False}, "use_sliding_window: False contradicts layer_types"),
        (
            "phi",
            {"rope_parameters": None, "partial_rotary_factor": 2},
            "rope_parameters.partial_rotary_factor: 2 is not",
        ),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping: 50.0 is not computed"),
        ("modernbert", {"layer_norm_eps": 1e-6}, "layer_norm_eps: 1e-06 is not the 1e-05 of norm_eps"),
        (
            "modernbert",
            {"local_rope_theta": 5},
            "local_rope_theta: 5 is not the 10000.0 of rope_parameters.sliding_att",
        ),
        ("modernbert", {"local_attention": 1}, "sliding_window: 0 is not a whole number"),
        ("mpnet", {"relative_attention_num_buckets": 31}, "relative_attention_num_buckets: 31 is below 32"),
        ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size: 3 puts a convolution after the first block"),
        ("deberta-v2", {"relative_attention": False}, "relative_attention: False is needed"),
        ("deberta-v2", {"pos_att_type": "c2p"}, "pos_att_type: ['c2p'] is not both p2c and c2p"),
        ("deberta-v2", {"share_att_key": False}, "share_att_key: False gives relative positions layers of their own"),
        ("electra", {"position_embedding_type": "relative_key"}, "position_embedding_type: 'relative_key' is not impl"),
        ("electra", {"type_vocab_size": 0}, "type_vocab_size: 0 is not a whole number"),
        (
            "bert",
            {"is_encoder_decoder": True},
            "is_encoder_decoder: True is not covered: an encoder reads and a decoder",
        ),
    ],
)
def test_what_a_config_cannot_ask_for_is_refused_by_file_and_key(family, options, named, tmp_path):
    given = {**json.loads(CONFIGS[family]().to_json_string(use_diff=False)), **options}
    folder = folder_with(tmp_path, given)
    with pytest.raises(ConfigError) as error:
        config_of(folder)
    message = str(error.value)
    assert message.startswith(f"model.name: {folder}/config.json: {named}") and "\n" not in message
    assert len(message) < 600


def test_options_that_the_class_does_not_know_are_listed(model_folder, tmp_path, capsys):
    given = json.loads(Path(model_folder("llama"), "config.json").read_text(encoding="utf-8"))
    older = {"torch_dtype": "float16", "_name_or_path": "x", "pretraining_tp": 1, "max_length": 20, "num_labels": 2}
    folder = folder_with(tmp_path, {**given, **older, "logit_scale": 3.0, "embedding_multiplier": 12})
    for _ in range(2):
        config_of(folder)
    assert capsys.readouterr().err == (
        f"note: {folder}/config.json: LlamaConfig of transformers has no embedding_multiplier, logit_scale: "
        "without effect here\n"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_said_of_options_that_the_class_knows(family, model_folder, capsys):
    config_of(model_folder(family))
    assert capsys.readouterr().err == ""


def test_options_of_how_outputs_are_handed_over_decide_nothing(model_folder, tmp_path):
    given = json.loads(Path(model_folder("bert"), "config.json").read_text(encoding="utf-8"))
    outputs = {"return_dict": False, "output_attentions": True, "output_hidden_states": True}
    config, _, _ = config_of(folder_with(tmp_path, {**given, **outputs}))
    assert (config.return_dict, config.output_attentions, config.output_hidden_states) == (True, False, False)


@pytest.mark.parametrize("more", [None, "tokenizer_config.json", "config.json"])
def test_the_folder_of_an_adapter_is_no_model(more, tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "some/base"}), encoding="utf-8"
    )
    if more:
        (tmp_path / more).write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds a PEFT adapter of 'some/base' .*task_groups\.NAME\.adapter"):
        config_of(str(tmp_path))


@pytest.mark.parametrize("model_type", ["bloom", "gptj", "vit"])
def test_an_architecture_that_is_not_supported(model_type, tmp_path):
    config, _, _ = config_of(folder_with(tmp_path, {"model_type": model_type}))
    with pytest.raises(ConfigError, match=f"architecture '{model_type}' is not supported; supported: bert, "):
        family_of(config.model_type)


@pytest.mark.parametrize("init", ["pretrained", "random", "auto"])
def test_code_in_a_folder_is_refused_and_never_run(init, tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "configuration_own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom transformers import PreTrainedConfig\n"
        "class Own(PreTrainedConfig):\n    model_type = 'own'\n",
        encoding="utf-8",
    )
    folder = folder_with(tmp_path, {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}})
    with pytest.raises(ConfigError) as error:
        config_of(folder, init=init)
    message = str(error.value)
    assert message.startswith(f"model.name: {folder}/config.json: auto_map: ") and "which atlas never" in message
    assert not ran.exists()


def test_code_beside_a_supported_architecture_is_refused_too(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "configuration_own.py").write_text(f"open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
    own = {"model_type": "llama", "auto_map": {"AutoConfig": "configuration_own.Own"}}
    with pytest.raises(ConfigError, match=r"auto_map: .* remove it from a local copy"):
        config_of(folder_with(tmp_path, own))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("nobody/nothing", "give a local folder or a packaged model (atlas models)"),
        ("nothing", "give a local folder or a packaged model (atlas models)"),
        ("gpt2", "give a local folder or a packaged model (atlas models), or model.init: random, or auto"),
    ],
)
def test_a_hub_id_without_a_hub_fails_fast(name, hint):
    started = time.perf_counter()
    with pytest.raises(ResourceError) as error:
        config_of(name)
    assert time.perf_counter() - started < 2
    message = str(error.value)
    why = "the hub cannot be reached and it is not in the hub cache"
    assert message == f"model.name: {name!r} was not found ({why}); {hint}"


def test_a_hub_id_with_a_revision():
    assert locate("org/model", "abc").options == {"revision": "abc", "local_files_only": True}


@pytest.mark.parametrize(
    ("environment", "answers", "reachable"),
    [({}, True, True), ({}, False, False), ({"HTTPS_PROXY": "p"}, False, True), ({"https_proxy": "p"}, False, True)],
)
def test_whether_the_hub_can_be_reached(environment, answers, reachable, monkeypatch):
    monkeypatch.undo()
    from huggingface_hub import constants

    def connect(address, timeout):
        assert address == ("hub.example", 443) and timeout <= 5
        if not answers:
            raise OSError("no route")
        return socket.socket()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    monkeypatch.setattr(resolve.socket, "create_connection", connect)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve.hub_reachable.__wrapped__() == reachable
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not resolve.hub_reachable.__wrapped__()


@pytest.mark.parametrize(("init", "why"), [("random", "as configured"), ("auto", "weights could not be reached")])
def test_an_architecture_is_initialised_at_random_where_asked_for(init, why):
    config, source, words = config_of("openai-community/gpt2", init=init)
    assert (config.n_layer, config.n_embd, config.vocab_size) == (12, 768, 50257)
    assert source is None and words == f"random ({why})"


@pytest.mark.parametrize("init", ["random", "auto"])
def test_an_unknown_name_has_no_random_initialisation(init):
    with pytest.raises(ResourceError, match="'nothing' was not found"):
        config_of("nothing", init=init)


def test_what_would_be_passed_over_for_a_local_model_is_refused(model_folder):
    folder = model_folder("gpt2")
    with pytest.raises(ConfigError, match=r"^model\.config: .* was found with its weights, which fit no other config"):
        config_of(folder, init="auto", config={"n_layer": 2})
    with pytest.raises(ConfigError, match=r"^model\.revision: revisions are of hub models, and .* is a folder one"):
        config_of(folder, revision="abc")


def test_auto_takes_the_weights_where_they_are(model_folder):
    config, source, words = config_of(model_folder("bert"), init="auto")
    assert source.path == model_folder("bert") and words == "pretrained" and config.num_hidden_layers == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_random_takes_a_folders_config_as_it_is(family, model_folder):
    """Nothing is derived anew that was set on purpose, such as Qwen3's head size."""
    config, source, words = config_of(model_folder(family), init="random")
    written = json.loads(Path(model_folder(family), "config.json").read_text(encoding="utf-8"))
    ignored = {"transformers_version", "architectures", "dtype"}
    assert {k: v for k, v in json.loads(config.to_json_string(use_diff=True)).items() if k not in ignored} == {
        k: v for k, v in written.items() if k not in ignored
    }
    assert source is None and words == "random (as configured)"


@pytest.mark.parametrize(
    ("name", "changes", "wanted"),
    [
        ("gpt2", {"n_layer": 3, "n_embd": 96}, {"num_hidden_layers": 3, "hidden_size": 96, "n_head": 12}),
        ("gpt2", {"num_hidden_layers": 3}, {"n_layer": 3}),
        ("bert", {"num_hidden_layers": 2}, {"num_hidden_layers": 2, "hidden_size": 768}),
        ("distilbert", {"num_hidden_layers": 2}, {"n_layers": 2}),
        ("llama", {"hidden_size": 64, "num_attention_heads": 4}, {"head_dim": 16, "num_key_value_heads": 4}),
        ("llama-3-8b", {"num_hidden_layers": 2}, {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 128256}),
        ("llama", {"head_dim": 32}, {"head_dim": 32, "hidden_size": 4096}),
        ("llama", {"num_key_value_heads": 8}, {"num_key_value_heads": 8, "num_attention_heads": 32}),
        (
            "llama-3-8b",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
        ),
        ("llama-3-8b", {"hidden_act": "gelu"}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    ],
)
def test_changes_to_a_config_and_what_follows_from_them(name, changes, wanted):
    config, _, _ = config_of(name, init="random", config=changes)
    assert {key: getattr(config, key) for key in wanted} == wanted


FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("config", "changes", "wanted"),
    [
        (Qwen2Config(num_hidden_layers=6), {"num_hidden_layers": 2}, {"layer_types": [FULL] * 2}),
        (
            Qwen2Config(num_hidden_layers=4, use_sliding_window=True, sliding_window=3, max_window_layers=2),
            {"num_hidden_layers": 3},
            {"layer_types": [FULL, FULL, SLIDING], "sliding_window": 3},
        ),
        (
            Qwen2Config(num_hidden_layers=3, layer_types=[SLIDING, FULL, SLIDING], use_sliding_window=True),
            {"hidden_act": "gelu"},
            {"layer_types": [SLIDING, FULL, SLIDING]},
        ),
        (
            Qwen3Config(head_dim=16, num_key_value_heads=8),
            {"hidden_size": 64, "num_attention_heads": 8},
            {"head_dim": 16},
        ),
        (Qwen3Config(), {"hidden_size": 64, "num_attention_heads": 32}, {"head_dim": 128}),
        (LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=32), {"hidden_size": 128}, {"head_dim": 32}),
        (LlamaConfig(hidden_size=64, num_attention_heads=4), {"hidden_size": 128}, {"head_dim": 32}),
        (MistralConfig(), {"num_attention_heads": 16}, {"num_key_value_heads": 8, "head_dim": 256}),
    ],
)
def test_derived_values_follow_and_explicit_ones_stay(config, changes, wanted, tmp_path):
    config.save_pretrained(tmp_path)
    changed, _, _ = config_of(str(tmp_path), init="random", config=changes)
    assert {key: getattr(changed, key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt2", {"n_layr": 3}, "model.config.n_layr: GPT2Config has no 'n_layr'; did you mean n_layer?"),
        ("gpt2", {"to_dict": 3}, "model.config.to_dict: GPT2Config has no 'to_dict'"),
        ("gpt2", {"model_type": "bert"}, "model.config.model_type: GPT2Config has no 'model_type'"),
        ("llama", {"n_layer": 3}, "model.config.n_layer: LlamaConfig has no 'n_layer'"),
        (
            "gpt2",
            {"n_layer": "three"},
            "model.config: these values do not fit together: "
            "TypeError: Field 'n_layer' expected int, got str (value: 'three')",
        ),
        (
            "llama",
            {"num_attention_heads": 5},
            "model.config: these values do not fit together: ValueError: The hidden size (4096) is not a multiple of "
            "the number of attention heads (5).",
        ),
        (
            "llama-3-8b",
            {"num_attention_heads": 4},
            "model.config: num_key_value_heads: 8 does not divide num_attention_heads 4; set both",
        ),
    ],
)
def test_changes_that_cannot_be_made(name, changes, message):
    with pytest.raises(ConfigError) as error:
        config_of(name, init="random", config=changes)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_built_in_configs_are_fresh_and_consistent():
    built_in("gpt2").n_layer = 1
    assert built_in("gpt2").n_layer == 12
    assert set(ALIASES.values()) <= set(ARCHITECTURES)
    for name in ARCHITECTURES:
        family_of(built_in(name).model_type)
        assert built_in(f"some-org/{name}").to_dict() == built_in(name).to_dict()


@pytest.mark.parametrize(
    ("name", "point"), [("gpt2", 6), ("bert", 6), ("llama", 16), ("gpt2-xl", 24), ("meta-llama/llama-3-70b", 40)]
)
def test_split_point_of_known_architectures(name, point):
    assert get_split_point(name) == point


def test_split_point_of_a_folder_that_is_called_like_an_architecture(tmp_path):
    CONFIGS["gpt2"]().save_pretrained(tmp_path / "gpt2")
    assert get_split_point(str(tmp_path / "gpt2")) == 2


def test_a_packaged_gguf_model_is_not_fetched_without_its_reader(monkeypatch):
    monkeypatch.setattr(resolve.gguf_files, "find_spec", lambda name: None)
    monkeypatch.setattr(resolve.packaged, "model_path", None)
    with pytest.raises(ResourceError, match=r"^reading SmolLM2.* needs the gguf package"):
        locate("smollm2-135m")


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(
        ResourceError, match=r"'minilmm' was not found .*; did you mean minilm\? Else give a local folder"
    ):
        config_of("minilmm")
