from __future__ import annotations

import pytest

from atlas_cli.config.load import load_config
from atlas_cli.config.template import Start, starting_config


@pytest.mark.parametrize(
    ("model", "name", "decoder"),
    [
        ("minilm", "minilm", False),
        ("gpt2", "gpt2", True),
        ("meta-llama/Llama-3.2-1B", "Llama-3.2-1B", True),
        ("./models/my model: v1.gguf", "my-model-v1.gguf", False),
        ("no", "no", False),
        ("1e-4", "1e-4", False),
        ("/", "experiment", False),
        ("{x}\n# '\"", "x", False),
        ("m" * 200, "m" * 80, False),
    ],
)
def test_the_template_loads_for_any_model(tmp_path, model: str, name: str, decoder: bool) -> None:
    text = starting_config(Start(model, decoder=decoder))
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path).config
    assert (config.name, config.model.name) == (name, model)
    assert {group.data.corpus for group in config.task_groups.values()} == {"trec-questions", "sms-spam"}
    assert text.startswith("# yaml-language-server: $schema=experiment.schema.json\n")
    assert ("causal-lm" in text) is decoder


def test_the_commands_of_the_header_name_the_file_and_fit_the_config(tmp_path) -> None:
    text = starting_config(Start("minilm"), "mine.yaml")
    commands = [line[2:].split("  ")[0] for line in text.splitlines() if line.startswith("# atlas ")]
    assert commands == [
        "atlas config schema > experiment.schema.json",
        "atlas validate mine.yaml",
        "atlas train mine.yaml",
        "atlas train mine.yaml training.rounds=3 clients.phone-1.rank=4",
    ]
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "mine.yaml", commands[3].split()[3:]).config.training.rounds == 3


def test_what_is_commented_out_loads_too(tmp_path) -> None:
    lines = starting_config(Start("gpt2", decoder=True)).splitlines()
    (tmp_path / "x.yaml").write_text(
        "\n".join(line.replace("  # ", "  ", 1) if line.startswith("  # ") else line for line in lines),
        encoding="utf-8",
    )
    config = load_config(tmp_path / "x.yaml").config
    assert config.task_groups["news"].task == "causal-lm" and config.clients["desktop-1"].task_group == "news"
    assert config.model.split_layer == 2 and config.model.dtype == "bfloat16"
