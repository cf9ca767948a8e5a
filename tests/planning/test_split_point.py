"""The table of split layers and the choice among them."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig

from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import ConfigError, ResourceError, TooFewClientsError
from atlas_cli.models.block_config import shortened
from atlas_cli.models.frozen.load import load_base
from atlas_cli.models.halves.split import client_half
from atlas_cli.planning.cuts.choice import choose_split, get_split_point
from atlas_cli.planning.cuts.remedies import remedies
from atlas_cli.planning.cuts.table import Setting, Shapes, config_of, cut_table
from atlas_cli.planning.devices.devices import BUILT_IN, Device
from atlas_cli.planning.memory.predict import predict_client
from atlas_cli.planning.memory.step import Step

SMALL = Setting(batch=4, tokens=32, rank=2)
LINKED = Device("linked", compute=1e9, uplink=1e7, downlink=1e7)
FAMILIES = ("gpt2", "llama", "qwen2", "bert", "distilbert", "opt", "gpt_neox", "modernbert", "electra", "deberta-v2")


def with_memory(size, device=LINKED):
    return replace(device, memory=size)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_those_of_the_real_halves(family, model_folder):
    base = load_base(ModelConfig.model_validate({"name": model_folder(family)}))
    choice = choose_split(model_folder(family), SMALL)
    assert [row.layer for row in choice.rows] == [1, 2, 3, 4]
    for row in choice.rows:
        half = client_half(base.model, base.family, row.layer)
        assert row.parameters == sum(p.numel() for p in half.parameters())
        assert row.memory.frozen_weights == sum(
            t.numel() * t.element_size() for t in (*half.parameters(), *half.buffers())
        )
        assert row.memory.adapters == 4 * row.adapter_parameters
        assert row.memory.peak == sum(v for v in vars(row.memory).values() if isinstance(v, int))


@pytest.mark.slow
def test_memory_is_that_of_the_prediction_with_all_layers_adapted():
    config = config_of("gpt2")
    shapes = Shapes(config, Setting(rank=4, checkpointing=True))
    row = cut_table(shapes, None, None, False)[4]
    ranks = {f"h.{layer}.attn.c_attn": 4 for layer in range(5)}
    features = dict.fromkeys(ranks, (768, 2304))
    step = Step(8, 128, checkpointing=True, fused_gelu=True)
    expected = predict_client(shapes.family, config, 5, ranks, features, step)
    assert row.memory == expected


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["auto", ("query",)])
def test_a_row_asked_for_alone_is_the_same(targets, model_folder):
    """Rows between may be read off a line, and a short model stands for a deep one."""
    setting = replace(SMALL, targets=targets)
    size = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 50}
    shapes = Shapes(BertConfig(num_hidden_layers=8, **size), setting)
    rows = cut_table(shapes, None, None, False)
    for cut in (1, 5, 8):
        assert rows[cut - 1].memory == shapes.client(cut, setting)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "layer", "of"), [("gpt2", 6, 12), ("bert", 6, 12), ("llama", 16, 32)])
def test_the_default_is_the_middle(model, layer, of):
    choice = choose_split(model)
    assert (choice.layer, len(choice.rows)) == (layer, of)
    assert choice.layer == get_split_point(model) == choice.require()
    assert choice.reason.startswith("the middle of the model")
    assert choice.device is None and choice.feasible is None and choice.rows[0].seconds is None


@pytest.mark.slow
@pytest.mark.parametrize("layer", [1, 2, 3, 4])
def test_the_deepest_layer_that_fits_is_chosen_to_the_byte(layer, model_folder):
    peaks = [row.memory.peak for row in choose_split(model_folder("gpt2"), SMALL).rows]
    assert peaks == sorted(peaks)
    exact = choose_split(model_folder("gpt2"), SMALL, with_memory(peaks[layer - 1]))
    assert exact.layer == layer and exact.feasible == (1, layer)
    if layer > 1:
        less = choose_split(model_folder("gpt2"), SMALL, with_memory(peaks[layer - 1] - 1))
        assert less.layer == layer - 1
        assert f"layer {layer} needs" in less.reason
    else:
        assert choose_split(model_folder("gpt2"), SMALL, with_memory(peaks[0] - 1)).layer is None


@pytest.mark.slow
def test_more_memory_never_means_a_shallower_cut(model_folder):
    chosen = [
        choose_split(model_folder("llama"), SMALL, with_memory(size)).layer or 0
        for size in (10_000, 320_000, 630_000, 1_095_000)
    ]
    assert chosen == sorted(chosen) and chosen[0] == 0 and chosen[-1] == 4


def test_time_is_linear_in_the_split_layer_and_bytes_do_not_depend_on_it():
    rows = choose_split("gpt2", device=BUILT_IN["phone-2gib"]).rows
    assert len({(row.bytes.up, row.bytes.down) for row in rows}) == 1
    # from layer 2 on: the lowest block has no gradient below it
    steps = [b.seconds.total - a.seconds.total for a, b in pairwise(rows)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert steps[0] > 0
    reason = choose_split("gpt2", device=BUILT_IN["phone-2gib"]).reason
    assert f"{rows[0].seconds.total:.3g} s a step at 1" in reason


@pytest.mark.slow
def test_the_servers_memory_sets_the_other_end(model_folder):
    everything = choose_split(model_folder("gpt2"), SMALL, with_memory(10**9), with_memory(10**9))
    client = [row.memory.peak for row in everything.rows]
    server = [row.server_memory.peak for row in everything.rows]
    assert server == sorted(server, reverse=True) and everything.feasible == (1, 4)
    limited = choose_split(model_folder("gpt2"), SMALL, with_memory(client[2]), with_memory(server[1]))
    assert (limited.feasible, limited.layer) == ((2, 3), 3)
    assert "below layer 2 the server needs more" in limited.reason
    neither = choose_split(model_folder("gpt2"), SMALL, with_memory(client[0]), with_memory(server[1]))
    assert neither.layer is None and "layer 2, the shallowest that the server's" in neither.reason
    assert "--server with more memory" in neither.remedies[-1]
    hopeless = choose_split(
        model_folder("gpt2"), SMALL, with_memory(10**9), with_memory(1000, Device("tiny", None, 1.0))
    )
    assert hopeless.layer is None and "fits server tiny" in hopeless.reason
    with pytest.raises(TooFewClientsError):
        hopeless.require()


@pytest.mark.slow
def test_an_assumed_server_sets_no_limit():
    choice = choose_split("llama-2-70b", Setting(dtype="bfloat16"), with_memory(64 * 2**30))
    assert choice.server_assumed and choice.rows[0].server_memory is None
    assert choice.feasible[0] == 1


def parse(remedy, setting):
    """The setting that a remedy's options ask for."""
    words, changes = remedy.split(" fits (")[0].split(), {}
    while words:
        option = words.pop(0)
        if option == "--checkpointing":
            changes["checkpointing"] = True
        else:
            value = words.pop(0)
            name = {"--batch-size": "batch", "--max-length": "tokens"}.get(option, option.removeprefix("--"))
            changes[name] = int(value) if value.isdigit() else value
    return replace(setting, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.8, 0.97, 0.4, 0.25])
def test_every_remedy_works_and_none_can_be_larger(share):
    setting = Setting(batch=16, tokens=128, rank=4)
    shapes = Shapes(config_of("gpt2"), setting)
    memory = int(share * shapes.client(1, setting).peak)
    found = remedies(shapes, 1, memory)
    assert found
    for remedy in found:
        changed = parse(remedy, setting)
        assert changed != setting
        assert shapes.client(1, changed).peak <= memory, remedy
        for name in ("batch", "tokens"):
            if getattr(changed, name) != getattr(setting, name):
                larger = replace(changed, **{name: getattr(changed, name) + 1})
                assert shapes.client(1, larger).peak > memory, remedy


@pytest.mark.slow
def test_nothing_that_fits_is_an_error_with_the_remedies():
    choice = choose_split("gpt2", SMALL, with_memory(150 * 2**20))
    assert choice.layer is None and choice.remedies[0].startswith("--embedding rows fits")
    with pytest.raises(TooFewClientsError) as caught:
        choice.require()
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


class Costs:
    """Stands for ``Shapes``: a model whose peak is a sum that can be followed by eye."""

    setting = Setting(batch=16, tokens=100)

    def client(self, _, setting):
        table = 1000 if setting.embedding == "table" else 100
        blocks = 1000 if setting.quantization == "none" else 140
        saved = setting.batch * setting.tokens // (20 if setting.checkpointing else 2)
        return SimpleNamespace(peak=(table + blocks + saved) // (2 if setting.dtype == "bfloat16" else 1))


@pytest.mark.parametrize(
    ("memory", "found"),
    [
        (2700, ["--embedding rows", "--checkpointing", "--quantization nf4", "--dtype bfloat16"]),
        (1500, ["--dtype bfloat16"]),
        (1000, ["--embedding rows --dtype bfloat16", "--quantization nf4 --dtype bfloat16"]),
        # at most four, and those that leave the batch as it is come first
        (
            1350,
            [
                f"--embedding rows {o}"
                for o in ("--checkpointing", "--quantization nf4", "--dtype bfloat16", "--batch-size 5")
            ],
        ),
        (
            350,
            [
                f"--embedding rows --quantization nf4 {o}"
                for o in ("--checkpointing", "--batch-size 2", "--max-length 13")
            ],
        ),
        # where the fewest changes take a smaller batch, what leaves it alone is named as well
        (
            300,
            [
                f"--embedding rows --quantization nf4 {o}"
                for o in ("--batch-size 1", "--dtype bfloat16 --checkpointing")
            ],
        ),
    ],
)
def test_the_fewest_changes_come_first(memory, found):
    said = [remedy.split(" fits (")[0] for remedy in remedies(Costs(), 1, memory)]
    assert said == found


@pytest.mark.slow
def test_where_nothing_helps_the_least_memory_is_said():
    choice = choose_split("gpt2", device=with_memory(2**20))
    (only,) = choice.remedies
    assert only.startswith("nothing makes it fit")
    least = Setting(1, 8, 8, dtype="bfloat16", quantization="nf4", embedding="rows", checkpointing=True)
    assert f"needs at least {choose_split('gpt2', least).rows[0].memory.peak / 2**20:.1f} MiB" in only


@pytest.mark.parametrize(
    ("setting", "key", "words"),
    [
        (Setting(rank=1000), "--rank", "rank 1000 is above 768"),
        (Setting(targets=("c_atn",)), "--targets", "did you mean"),
        (Setting(targets=()), "--targets", "names no layer"),
        (Setting(tokens=2000), "--max-length", "1024 positions"),
    ],
)
def test_settings_that_the_model_cannot_take(setting, key, words):
    with pytest.raises(ConfigError, match=words) as caught:
        choose_split("gpt2", setting)
    assert caught.value.key == key


def test_roberta_has_two_positions_less_than_it_says():
    with pytest.raises(ConfigError, match="512 positions"):
        choose_split("roberta-base", Setting(tokens=513))


def test_a_device_without_memory_is_refused():
    with pytest.raises(ConfigError, match="device linked has no memory"):
        choose_split("gpt2", device=LINKED)


def test_a_device_without_a_link_has_no_seconds():
    choice = choose_split("gpt2", device=Device("bare", memory=2**30))
    assert choice.layer == 12 and choice.rows[0].seconds is None


def test_a_model_that_is_nowhere(monkeypatch):
    monkeypatch.setattr("atlas_cli.models.files.resolve.hub_reachable", lambda: False)
    with pytest.raises(ResourceError, match="was not found"):
        choose_split("no-such/model")


@pytest.mark.parametrize(
    "name", ["gpt2-medium", "bert-base-uncased", "distilbert-base-uncased", "roberta-base", "llama-3-8b"]
)
def test_one_block_stands_for_all(name):
    config = config_of(name)
    short = shortened(config, 1)
    assert (short.num_hidden_layers, config.num_hidden_layers > 1) == (1, True)
    shapes = Shapes(config, Setting())
    difference = shapes.client(2).frozen_weights - shapes.client(1).frozen_weights
    assert difference == 4 * (shapes.parameters(2) - shapes.parameters(1))
    assert shapes.client(1).frozen_weights // 4 - shapes.parameters(1) in range(4096)  # and buffers


PROBE = """
import json, sys, time
from pathlib import Path
import transformers.models.llama.modeling_llama
from atlas_cli.planning.devices.devices import BUILT_IN
from atlas_cli.planning.cuts.choice import choose_split
from atlas_cli.runs.parts import peak_resident_bytes
start = time.process_time()
choice = choose_split("llama-3-70b", device=BUILT_IN["laptop-8gib"])
seconds = time.process_time() - start
if sys.platform == "linux":  # there getrusage remembers the process that started this one
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = 1024 * int(status["VmHWM"].split()[0])
else:
    peak = peak_resident_bytes()
print(json.dumps([len(choice.rows), seconds, peak]))
"""


@pytest.mark.slow
def test_seventy_billion_parameters_take_seconds_and_no_weights():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    layers, seconds, peak = json.loads(done.stdout)
    assert layers == 80
    assert seconds < 4  # of planning; importing torch and transformers comes on top
    assert peak < 1e9


@pytest.mark.slow
def test_no_tensor_with_storage_is_made(monkeypatch):
    made = []
    real = torch.nn.Linear.__init__

    def spy(self, *args, **kwargs):
        real(self, *args, **kwargs)
        made.append(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Linear, "__init__", spy)
    Shapes(config_of("llama-7b"), Setting()).client(1, Setting(batch=1))
    assert set(made) == {"meta"}
