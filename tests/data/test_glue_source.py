"""GLUE's nine tasks, from folders as GLUE publishes them and from the hub, with the configs that come with atlas."""

from pathlib import Path

import pytest
from support.glue_folders import TEXTS, write_glue
from support.tiny_models import word_tokenizer

from atlas_cli.config.load import load_config
from atlas_cli.config.schema.experiment import DataConfig
from atlas_cli.data.read import read_group
from atlas_cli.data.sources import glue, hub, read_source
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.tasks import build

CONFIGS = Path(__file__).parents[2] / "configs"
ONE_TEXT = ("CoLA", "SST-2")
FIGURES = {
    "CoLA": ["matthews"],
    "MRPC": ["f1", "accuracy"],
    "QQP": ["f1", "accuracy"],
    "STS-B": ["pearson", "spearman"],
}


def load(**data):
    return read_source(DataConfig(**data), "task_groups.g.data")


@pytest.mark.parametrize("name", glue.LAYOUTS)
def test_a_config_reads_the_folder_of_its_task(tmp_path, name):
    path = CONFIGS / f"glue-{name.lower()}.yaml"
    folder, key = write_glue(tmp_path, name), f"task_groups.{name.lower()}.data.glue"
    assert load_config(path).config.task_groups[name.lower()].data.glue == name
    group = load_config(path, [f"{key}={folder}"]).config.task_groups[name.lower()]
    data = read_group("g", group, 0)
    assert (len(data.train), len(data.test)) == (24, 6)
    first = data.train[1]
    assert first["text"].rstrip() == f"{TEXTS[1]} train 1" and first["text"].startswith('"')
    assert first.get("text_pair") == (None if name in ONE_TEXT else f"{TEXTS[2]} train")
    task = build(group.task, data.classes, metric=group.metric)
    [feature] = task.encode(first, word_tokenizer(False), 64)
    expected = {"STS-B": 0.9, "RTE": 1, "QNLI": 1, "MNLI": 1}  # not_entailment, and neutral
    assert feature["labels"] == pytest.approx(expected.get(name, 1))
    assert list(data.classes) == list(glue.LAYOUTS[name].classes)
    figures = FIGURES.get(name, ["accuracy"])
    assert task.primary_metric == figures[0] and set(figures) <= task.better.keys()


def test_lines_that_glues_readers_leave_out_are_counted(tmp_path):
    source = load(glue=str(write_glue(tmp_path, "QQP")))
    train = tmp_path / "QQP" / "train.tsv"
    assert len(source.train) == 24 and source.notes == (
        f"{train}: 1 lines have other columns than the first, and are left out",
        f"{train}: 1 rows have no text, and are left out",
    )


def test_mnli_has_two_dev_parts(tmp_path):
    folder = str(write_glue(tmp_path, "MNLI"))
    matched, mismatched = load(glue=folder), load(glue=folder, test_split="mismatched")
    assert matched.test[0]["text"].endswith("dev_matched 0") and mismatched.test[0]["text"].endswith("dev_mismatched 0")
    assert load(glue=folder, test_split="matched").test == matched.test
    with pytest.raises(ConfigError, match=r"test_split: 'dev' is no dev part of MNLI; expected matched or mismatched"):
        load(glue=folder, test_split="dev")


@pytest.mark.parametrize(
    ("name", "subset", "split", "rows"),
    [
        ("cola", "cola", "validation", [{"sentence": "a", "label": "acceptable", "idx": 0}]),
        ("STS-B", "stsb", "validation", [{"sentence1": "a", "sentence2": "b", "label": 2.5}]),
        ("mnli", "mnli", "validation_matched", [{"premise": "a", "hypothesis": "b", "label": "neutral"}] * 2),
    ],
)
def test_a_name_alone_is_read_from_the_hub(tmp_path, monkeypatch, name, subset, split, rows):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(hub, "rows_of", lambda *place: asked.append(place[:3]) or rows)
    source = load(glue=name)
    assert asked == [("nyu-mll/glue", subset, "train"), ("nyu-mll/glue", subset, split)]
    pair = {} if subset == "cola" else {"text_pair": "b"}
    assert source.train == source.test == [{"text": "a", **pair, "label": row["label"]} for row in rows]


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        ({"glue": "COLA2"}, ConfigError, "data.glue: 'COLA2' is no task of GLUE; did you mean CoLA?"),
        ({"glue": "glue_data/CoLA"}, ResourceError, "no folder glue_data/CoLA; unpack CoLA.zip of GLUE there, or give"),
        ({"glue": "WNLI", "test_split": "mismatched"}, ConfigError, "data.test_split: is for MNLI alone"),
        ({"glue": "CoLA", "subset": "cola"}, ConfigError, "data.subset: only goes with hub, this group reads glue"),
        (
            {"glue": "here/RTE"},
            ResourceError,
            "no file here/RTE/train.tsv; the folder of RTE has train.tsv and dev.tsv",
        ),
        ({"glue": "here/SST-2"}, ConfigError, "train.tsv:1: no column 'sentence'"),
        ({"glue": "here/WNLI"}, ConfigError, "train.tsv:2: label '2' is none of not_entailment, entailment"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, monkeypatch, data, error, says):
    monkeypatch.chdir(tmp_path)
    write_glue(tmp_path / "here", "WNLI")
    for name in ("RTE", "SST-2"):
        (tmp_path / "here" / name).mkdir()
    (tmp_path / "here" / "SST-2" / "train.tsv").write_text("text\tlabel\na\t1\n", encoding="utf-8")
    bad = tmp_path / "here" / "WNLI" / "train.tsv"
    bad.write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\t2\n", encoding="utf-8")
    with pytest.raises(error) as caught:
        load(**data)
    assert says in str(caught.value).replace("\\", "/")
