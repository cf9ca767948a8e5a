"""Text that a run's model generates: prompts in the task's form, bytes, and time on the run's devices."""

import json
from dataclasses import replace

import pytest
import torch
from support import warm
from transformers import AutoModelForCausalLM, GenerationConfig

from atlas_cli.cli import main
from atlas_cli.config.schema.experiment import ClientConfig
from atlas_cli.config.schema.privacy import PrivacyConfig
from atlas_cli.config.schema.wire import CodecConfig, WireConfig
from atlas_cli.errors import ConfigError
from atlas_cli.federation.parties.generation import Decoding
from atlas_cli.inference.generation import sizing
from atlas_cli.inference.generation.prompts import given_prompts, prompts_of_file, room
from atlas_cli.inference.generation.sizing import device_times
from atlas_cli.inference.generation.texts import TextGeneration
from atlas_cli.inference.loaded_model import open_model
from atlas_cli.planning.devices.cost import block_shapes
from atlas_cli.planning.devices.devices import BUILT_IN, DEFAULT_SERVER, Traces
from atlas_cli.planning.devices.traces import Trace
from atlas_cli.tasks import build

CHANGES = {"clients": {"b": {"dtype": "bfloat16"}}}


@pytest.fixture(scope="module")
def run(make_toy_run):
    return make_toy_run("instruction", **CHANGES)


@pytest.fixture(scope="module")
def loaded(run):
    return open_model(run.path)


def with_devices(loaded, **devices):
    """The same model in a config whose clients have devices."""
    clients = {
        name: ClientConfig.model_validate({**client.model_dump(exclude_none=True), "device": devices.get(name)})
        for name, client in loaded.config.clients.items()
    }
    return replace(loaded, config=loaded.config.model_copy(update={"clients": clients}))


def test_a_runs_model_generates_what_its_merged_weights_do(loaded):
    merged = AutoModelForCausalLM.from_pretrained(loaded.config.model.name)
    with torch.no_grad():
        for path, adapter in loaded.model.adapters.adapters.items():
            merged.base_model.get_submodule(path).weight += adapter.scaling * adapter.lora_B @ adapter.lora_A
    words = ["the film was good", "a city", "the game is not very"]
    prompts = [given_prompts(loaded, [text]).tokens[0] for text in words]
    assert loaded.tokenizer.decode(prompts[1]).split() == ["a", "city"]
    generation = TextGeneration(loaded, Decoding(8))
    found = list(generation.texts(prompts, batch_size=2))
    for prompt, text in zip(prompts, found, strict=True):
        config = GenerationConfig(max_new_tokens=8, eos_token_id=loaded.tokenizer.eos_token_id, pad_token_id=0)
        expected = merged.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()
        assert text.tokens == expected
    assert [batch.rows for batch in generation.batches] == [2, 1]
    assert generation.tokens == sum(len(text.tokens) for text in found)


def test_time_is_that_of_the_virtual_clocks_formulas(loaded):
    known = with_devices(loaded, a="phone-2gib")
    generation = TextGeneration(known, Decoding(3))
    list(generation.texts([[5, 6, 7, 8], [9]], batch_size=2))
    [time], notes = device_times(generation)
    assert (time.device, time.clients) == ("phone-2gib", ["a"])
    assert any("the server is taken to be" in note for note in notes)
    phone, shapes = BUILT_IN["phone-2gib"], block_shapes(loaded.base.family, loaded.base.config)
    (batch,), ranks = generation.batches, {"self_attn.q_proj": 4, "self_attn.v_proj": 4}
    # rows of 4 tokens, padding included, then a token a pass which attends to all before it
    flops = [2 * tokens * 2 * shapes.forward(4 + n, ranks) for n, tokens in enumerate([4, *[1] * (batch.steps - 1)])]
    assert time.compute == pytest.approx(sum(flops) / phone.compute)
    up, down = (generation.bytes()[way] for way in ("up", "down"))
    latency = batch.steps * (phone.latency + DEFAULT_SERVER.latency)
    assert time.upload == pytest.approx(8 * up / phone.uplink + latency)
    assert time.download == pytest.approx(8 * down / phone.downlink + latency)
    assert time.seconds == pytest.approx(time.compute + time.upload + time.server + time.download)
    assert time.seconds == pytest.approx(time.first_token + (batch.steps - 1) * time.next_token)
    assert device_times(TextGeneration(loaded, Decoding(3)))[0] == []


def test_a_link_that_changes_has_its_mean_and_a_note(loaded, monkeypatch):
    trace = Trace.of([0, 10], [1e6, 3e6], 20)
    phone = replace(BUILT_IN["phone-2gib"], uplink=2e6, traces=Traces(trace, None, None, ("uplink",)))
    monkeypatch.setattr(sizing, "client_devices", lambda config: {"a": phone})
    generation = TextGeneration(loaded, Decoding(2))
    list(generation.texts([[5, 6]]))
    assert any("takes its mean, uplink 2 Mbit/s" in note for note in device_times(generation)[1])


def test_with_labels_at_the_client_hidden_states_come_down(loaded):
    training = loaded.config.training.model_copy(update={"labels": "client"})
    at_client = replace(loaded, config=loaded.config.model_copy(update={"training": training}))
    kinds = []
    for model in (loaded, at_client):
        generation = TextGeneration(model, Decoding(2))
        list(generation.texts([[5, 6]]))
        kinds.append({(kind, way) for _, kind, way in generation.ledger.entries})
        assert ("labels: client" in generation.notes()[0]) == (model is at_client)
    assert kinds == [{("activations", "up"), ("tokens", "down")}, {("activations", "up"), ("features", "down")}]
    alone = replace(loaded, config=loaded.config.model_copy(update={"mode": "local-only"}))
    generation = TextGeneration(with_devices(alone, a="phone-2gib"), Decoding(2))
    list(generation.texts([[5, 6]]))
    [time], _ = device_times(generation)
    assert generation.ledger.entries == {} and time.seconds == time.compute > 0


def test_what_privacy_does_to_the_hidden_states_is_said(loaded):
    asked = {"activations": {"clip": 1.0, "noise_multiplier": 50.0}, "pad_lengths": 8}
    wire = WireConfig(activations=CodecConfig(codec="int8"))
    private = replace(
        loaded,
        config=loaded.config.model_copy(update={"privacy": PrivacyConfig.model_validate(asked), "wire": wire}),
        manifest={"privacy": {"mechanisms": {"activations": {"noise_multiplier": 50.0}}}},
    )
    plain, noisy = TextGeneration(loaded, Decoding(8)), TextGeneration(private, Decoding(8))
    texts = [[text.tokens for text in each.texts([[5, 6, 7]])] for each in (plain, noisy)]
    assert texts[0] != texts[1]
    assert noisy.notes()[1:] == [
        "privacy.activations acts on the hidden states that are sent, as in training",
        "wire is not applied to what is generated",
        "privacy.pad_lengths is not applied to what is generated",
    ]
    assert len(plain.notes()) == 1


def test_prompts_that_do_not_fit_are_refused_by_name(loaded, tmp_path):
    for text, new, said in (
        ("the " * 64, None, "the prompt has 64 tokens, and the model's 64 positions leave no room for a new token"),
        ("the " * 60, 5, "give --max-new-tokens 4 at most"),
    ):
        with pytest.raises(ConfigError, match=said):
            room(loaded, given_prompts(loaded, [text]), new)
    assert room(loaded, given_prompts(loaded, ["the film"]), None) == 62
    classifier = replace(loaded, task=build("regression"), origin=replace(loaded.origin, task="regression"))
    with pytest.raises(ConfigError, match="task regression generates no text; atlas generate is for causal models"):
        TextGeneration(classifier, Decoding(2))
    file = tmp_path / "asked.jsonl"
    for row, said in (
        ({"question": "the"}, "--input: no column 'prompt'"),
        ({"prompt": 3}, "--input: row 1: field 'prompt' must be text"),
    ):
        file.write_text(json.dumps(row) + "\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=said):
            prompts_of_file(loaded, str(file))
    file.write_text('{"instruction": "the film", "input": "was"}\n{"instruction": "a city", "input": ""}\n', "utf-8")
    texts = [loaded.tokenizer.decode(tokens) for tokens in prompts_of_file(loaded, str(file)).tokens]
    assert [text.split() for text in texts] == [["the", "film", "was"], ["a", "city"]]
    chat = replace(loaded, task=build("chat"))
    assert given_prompts(chat, ["a city"]).tokens == given_prompts(loaded, ["a city"]).tokens
    lines = tmp_path / "asked.txt"
    lines.write_text("the film\n\na city\n", encoding="utf-8")
    assert [len(tokens) for tokens in prompts_of_file(loaded, str(lines)).tokens] == [2, 2]


@pytest.mark.slow
def test_the_command_keeps_columns_and_says_what_was_sent(run, tmp_path, capsys):
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    rows = [{"id": 7, "prompt": "the film"}, {"id": 8, "prompt": "a city was", "ended_by": "hand"}]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    more = ["--max-new-tokens", "4", "--client", "b-1", "--json"]
    capsys.readouterr()
    assert main(["generate", str(run.path), "--input", str(asked), "--output", str(answered), *more]) == 0
    record = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in answered.read_text(encoding="utf-8").splitlines()]
    new = ("generated", "generated_tokens", "predicted_ended_by")  # no column of the rows is lost
    assert [{name: value for name, value in line.items() if name not in new} for line in lines] == rows
    assert [line["generated"] for line in lines] == [text["generated"] for text in record["texts"]]
    assert (record["model_of"], record["round"], record["split_layer"]) == ("client b-1", 2, 2)
    assert record["tokens"] == sum(line["generated_tokens"] for line in lines)
    assert record["bytes"]["up"] > record["bytes"]["down"] > 0
    assert main(["generate", str(run.path), "--prompt", "the film", "--max-new-tokens", "4"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1 and "the server chooses tokens" in shown.err
    assert main(["generate", str(run.path), "--prompt", "the film", "--prompt", "a city", "--max-new-tokens", "4"]) == 0
    assert [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()] == ["the film", "a city"]
    for arguments, said in (
        ([str(run.path)], "give one of --prompt TEXT and --input FILE"),
        ([str(run.path), "--prompt", "x", "--temperature", "0"], "--temperature: 0 is not above 0"),
        ([str(run.path), "--prompt", "x", "--stop", ""], "--stop: it is empty"),
        ([str(run.path), "--prompt", "x", "--device", "xpu"], "device: this machine has no xpu device"),
        ([str(run.path), "--prompt", "x", "--device", "gpu"], "device: 'gpu' is no device; use auto, cpu"),
        ([str(run.path), "--prompt", "x", "--output", str(asked)], "asked.jsonl exists and is not overwritten"),
        ([str(run.path), "--input", str(asked), "--output", str(tmp_path / "no" / "a.jsonl")], "there is no folder"),
        ([str(run.path), "--input", str(tmp_path / "no.txt")], "--input: no file"),
        ([str(run.path), "--input", str(answered)], "--input: rows have a column 'predicted_ended_by'"),
    ):
        assert main(["generate", *arguments]) in (1, 2, 3)
        assert said in capsys.readouterr().err
    assert [json.loads(line) for line in asked.read_text(encoding="utf-8").splitlines()] == rows
    assert sorted(tmp_path.iterdir()) == [answered, asked]


@pytest.mark.slow
def test_in_a_process_of_its_own_it_draws_the_same(run, capsys):
    command = ["generate", str(run.path), "--prompt", "the film", "--temperature", "0.9", "--seed", "1", "--quiet"]
    process = warm.start(command)
    out, err = process.communicate()
    capsys.readouterr()
    assert main(command) == 0
    assert (process.returncode, err) == (0, "") and out == capsys.readouterr().out
