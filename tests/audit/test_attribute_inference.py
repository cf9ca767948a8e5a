"""An attribute of texts is found where texts tell it, and not where they do not."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from atlas_cli.audit.attacks import attack_of
from atlas_cli.audit.attacks.attribute_inference import of_texts
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.cli import main
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment import end_of_run, session
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal

WORDS = "the a film movie game phone price city river was is and very not".split()
CITIES = ("london", "paris", "rome")


@pytest.fixture(scope="module")
def config(toy, tmp_path_factory):
    """Texts that name a city, which is a column; so is a coin, which nothing tells. Every seventh has no city."""
    draw, rows = random.Random(0), []
    for i in range(240):
        city = draw.choice(CITIES) if i % 7 else ""
        words = [*draw.choices(WORDS, k=4), *([city] if city else [])]
        rows.append(f"{' '.join(words)},{draw.choice(['pos', 'neg'])},{city},{draw.choice('01')},{i}")
    path = tmp_path_factory.mktemp("cities") / "cities.csv"
    path.write_text("\n".join(["text,label,city,coin,row", *rows]) + "\n", encoding="utf-8")
    return toy(
        task_groups={"g": {"data": {"files": str(path), "test_fraction": 0.5}}},
        training={"rounds": 1, "local_steps": 4, "batch_size": 8, "labels": "client"},
        audit={"record": {"rounds": [1]}},
    )


@pytest.fixture(scope="module")
def evidence(config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(end_of_run, "write_report", lambda run, manifest: run.write_text("report.html", ""))
        run = session.start(ExperimentConfig.model_validate(config), PlainProgress(Terminal(quiet=True)))
    return Evidence.of_run(run)


def found(evidence, column):
    return attack_of("attribute-inference").attack(replace(evidence, attribute=column))


@pytest.mark.slow
def test_what_texts_name_is_found_though_the_task_reads_it_nowhere(evidence):
    figure = found(evidence, "city")
    assert figure.low > 0.8 > figure.floor
    assert (figure.chance, figure.best, figure.channel) == (pytest.approx(1 / 4), 1.0, "activations")


def test_a_column_that_texts_do_not_tell_stays_at_chance(evidence):
    figure = found(evidence, "coin")
    assert figure.low < 0.5 < figure.high and figure.chance == 0.5


def test_activations_that_say_nothing_give_no_more_than_what_is_common(evidence):
    draw = torch.Generator().manual_seed(0)
    noisy = replace(evidence, attribute="city")

    def tokens(step, first_text=0):
        real = Evidence.tokens(evidence, step, first_text)
        return replace(real, activations=torch.randn(real.activations.shape, generator=draw))

    noisy.tokens = tokens
    figure = attack_of("attribute-inference").attack(noisy)
    assert figure.low <= figure.floor + 0.05


def test_labels_that_stay_on_clients_are_the_attribute_where_none_is_named(evidence):
    figure = attack_of("attribute-inference").attack(evidence)
    assert figure.what == "label found, share" and figure.chance == 0.5


def test_labels_in_the_clear_are_no_attribute(evidence, monkeypatch):
    config = evidence.federation.config
    clear = config.model_copy(update={"training": config.training.model_copy(update={"labels": "server"})})
    monkeypatch.setattr(evidence.federation, "config", clear)
    with pytest.raises(Inapplicable, match="--attribute"):
        attack_of("attribute-inference").attack(evidence)


@pytest.mark.slow
def test_groups_without_the_column_are_left_out_and_counted(config, tmp_path):
    """As in a run of several tasks, of which one file has it."""
    group, other = config["task_groups"]["g"], tmp_path / "towns.csv"
    lines = Path(group["data"]["files"]).read_text(encoding="utf-8").splitlines()
    other.write_text("".join(f"{','.join(line.split(',')[:2])}\n" for line in lines), encoding="utf-8")
    without = {**group, "data": {**group["data"], "files": str(other)}}
    clients = {"a": config["clients"]["a"], "c": {"task_group": "h", "rank": 2}}
    both = {**config, "task_groups": {"g": group, "h": without}, "clients": clients}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(end_of_run, "write_report", lambda run, manifest: run.write_text("report.html", ""))
        run = session.start(ExperimentConfig.model_validate(both), PlainProgress(Terminal(quiet=True)))
    evidence = Evidence.of_run(run)
    figure, own = found(evidence, "city"), [step for step in evidence.steps if step.client == "a"]
    assert figure.low > 0.6 and "texts are left out: no value, or too few in other text" in figure.note
    assert figure.examples <= sum(step.batch.n_examples for step in own)


def test_a_text_is_its_mean_and_its_largest_elements():
    hidden = torch.tensor([[1.0, 0.0], [3.0, -2.0], [5.0, 7.0]])
    assert of_texts(hidden, torch.tensor([4, 4, 9])).tolist() == [[2.0, -1.0, 3.0, 0.0], [5.0, 7.0, 5.0, 7.0]]


@pytest.mark.parametrize(
    ("column", "says"),
    [("citty", "no task group has a column 'citty'; did you mean city?"), ("row", "has 120 in task group g")],
)
def test_a_column_is_refused_before_anything_is_trained(config, tmp_path, capsys, column, says):
    file = tmp_path / "cities.yaml"
    file.write_text(yaml.safe_dump(config | {"output": {"dir": str(tmp_path / "runs")}}), encoding="utf-8")
    assert main(["audit", str(file), "--attribute", column]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
