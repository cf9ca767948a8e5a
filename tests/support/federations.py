"""Small federations on real text files, built as a run builds them."""

import csv
import random

import pytest

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment.recorder import Recorder
from atlas_cli.experiment.round_loop import train
from atlas_cli.federation.build import build
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal

FILLER = ["the", "a", "film", "movie", "game", "phone", "price", "city", "river", "was", "is", "and", "very", "not"]
TONE = {"pos": ["good", "great", "fine"], "neg": ["bad", "awful", "poor"]}


def merged(base: dict, changes: dict) -> dict:
    """Nested update: sections that both have are merged, all else is replaced."""
    both = {k: merged(base[k], v) for k, v in changes.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **changes, **both}


@pytest.fixture(scope="session")
def toy_csv(tmp_path_factory) -> str:
    """60 sentences of 2 to 9 words whose last word tells the label."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "tone.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(60):
            label = ("pos", "neg")[i % 2]
            words = [*draw.choices(FILLER, k=draw.randint(1, 8)), draw.choice(TONE[label])]
            writer.writerow([" ".join(words), label])
    return str(path)


@pytest.fixture(scope="session")
def make_config(model_folder, toy_csv):
    """``make_config(family, **changes)``: one group ``g`` with clients a, b, c of ranks 4, 2, 3; two of four layers."""

    def make(family: str = "bert", **changes) -> ExperimentConfig:
        config = {
            "name": "toy",
            "device": "cpu",
            "model": {"name": model_folder(family), "split_layer": 2},
            "server": {"rank": 2},
            "aggregation": {"method": "zero-pad"},
            "task_groups": {"g": {"task": "sequence-classification", "data": {"files": toy_csv}}},
            "clients": {
                "a": {"task_group": "g", "rank": 4},
                "b": {"task_group": "g", "rank": 2},
                "c": {"task_group": "g", "rank": 3},
            },
            "training": {"rounds": 2, "local_steps": 3, "batch_size": 4, "max_length": 32},
        }
        return ExperimentConfig.model_validate(merged(config, changes))

    return make


@pytest.fixture
def lines(tmp_path):
    """A language-modelling group on 60 lines of 4 to 10 words."""
    words = ["the", "film", "was", "very", "good", "and", "the", "city", "was", "not"]
    (tmp_path / "lines.txt").write_text(
        "\n".join(" ".join([*words[: 3 + i % 7], str(i)]) for i in range(60)), encoding="utf-8"
    )
    return {"g": {"task": "causal-lm", "data": {"files": str(tmp_path / "lines.txt")}}}


@pytest.fixture
def make_federation(make_config):
    return lambda *args, **changes: build(make_config(*args, **changes))


@pytest.fixture
def train_quietly():
    """Run all rounds, nothing written or shown; the recorder with its records."""

    def run(federation, **arguments) -> Recorder:
        progress = PlainProgress(Terminal(quiet=True))
        training = federation.config.training
        progress.start(training.rounds, training.local_steps, federation.group_names)
        recorder = Recorder(federation, None, progress)
        train(federation, recorder, **arguments)
        return recorder

    return run
