"""``atlas init``: what it writes for own data is checked, trains, and says what was seen; nothing is overwritten."""

import sys
from pathlib import Path

import pytest
import typer
from support.tiny_models import CAUSAL
from support.toy_runs import TASKS

from atlas_cli import discovery
from atlas_cli.cli import _start, main
from atlas_cli.config.load import load_config
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.packages.models import MODELS
from atlas_cli.plugins import load_class

QUICK = ["training.rounds=1", "training.local_steps=1", "threads=1", "device=cpu"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("task", discovery.own_names("tasks"))
def test_every_task_is_known_by_its_columns_and_trains(task, data, model_folder, capsys):
    family, file = TASKS[task]
    assert main(["init", "--data", str(data / file), "--model", model_folder(family), "--clients", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{file}: ") and f" rows for {task}; " in out and "task and columns are guessed" in out
    assert out.endswith("wrote experiment.yaml; next: atlas train experiment.yaml\n")
    (group,) = load_config("experiment.yaml").config.task_groups.values()
    assert group.task == task
    assert main(["train", "experiment.yaml", *QUICK]) == 0


@pytest.mark.parametrize("name", discovery.own_names("models.families"))
def test_every_family_validates(name, data, model_folder, capsys):
    """``init`` writes no config that is not valid; the command that checks it again is asked for one of either kind."""
    family = load_class("models.families", name, "Family", BaseFamily).model_types[0]
    assert main(["init", model_folder(family)]) == 0
    assert ("causal-lm" in capsys.readouterr().out) is (family in CAUSAL)
    if name in ("bert", "gpt2"):
        assert main(["init", model_folder(family), "--data", str(data / "tone.csv"), "--out", "own.yaml"]) == 0
        assert main(["validate", "own.yaml"]) == 0


def test_a_packaged_model_is_not_fetched_to_be_named(monkeypatch, capsys):
    monkeypatch.setattr("atlas_cli.packages.fetch.fetch", None)
    for name in (name for name, model in MODELS.items() if model.model_type):
        assert main(["init", name]) == 0
        assert f"\n  name: {name}\n" in capsys.readouterr().out
    assert main(["init", "gpt2-bpe"]) == 2
    assert "gpt2-bpe is a tokenizer without a model" in capsys.readouterr().err


def test_the_config_says_what_was_seen_and_what_was_asked_for(here, model_folder):
    rows = [f"{i},{'win a prize' if i % 3 else 'see you'} {i},{'spam' if i % 3 else 'ham'}" for i in range(60)]
    (here / "mails.csv").write_text("\n".join(["id,message,kind", *rows]) + "\n", encoding="utf-8")
    devices = ["--device", "laptop-8gib", "--device", "phone-2gib", "--clients", "3"]
    assert main(["init", model_folder("bert"), "--data", "mails.csv", *devices, "--out", "x.yaml"]) == 0
    config = load_config("x.yaml").config
    assert config.name == "mails" and config.training.max_length == 16 and config.partition.scheme == "iid"
    group = config.task_groups["mails"].data
    assert (group.location, group.text, group.label) == ([str(here / "mails.csv")], "message", "kind")
    clients = {name: (each.device, each.rank, each.count) for name, each in config.clients.items()}
    assert clients == {"phone-2gib": ("phone-2gib", 4, 2), "laptop-8gib": ("laptop-8gib", 8, 1)}
    text = (here / "x.yaml").read_text(encoding="utf-8")
    assert "# mails.csv: 60 rows for sequence-classification; text is message, label is kind; not read: id\n" in text
    assert "# 2 classes: spam 40, ham 20\n# tokens: half of the examples have at most " in text
    assert "\n      files: mails.csv\n" in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give a model (atlas init minilm), --data FILE, or --example NAME"),
        (["bert-bas-uncased"], 3, "MODEL: 'bert-bas-uncased' was not found (the hub"),
        (["--model", "gpt2-bpe"], 2, "--model: gpt2-bpe is a tokenizer without a model; atlas models"),
        (["./nowhere"], 3, "MODEL: folder ./nowhere does not exist; check the path"),
        (["minilm", "--model", "gpt2"], 2, "--model: gives the model a second time"),
        (["--task", "regression"], 2, "--task: needs --data FILE"),
        (["minilm", "--device", "phone"], 2, "--device: no device is named 'phone'; did you mean phone-"),
        (["minilm", "--clients", "1", "--device", "phone-2gib", "--device", "phone-6gib"], 2, "--clients: 1 clients"),
        (
            ["--data", "nowhere.csv", "--out", "gone/x.yaml"],
            1,
            f"{Path('gone/x.yaml')}: there is no folder gone; make it, or choose another --out",
        ),
        (["--data", "nowhere.csv"], 3, "data.files: no file nowhere.csv"),
        (["--data", "DATA/tone.csv", "--task", "regresion"], 2, "--task: 'regresion' is not known; expected one of: "),
        (
            ["--data", "DATA/tone.csv", "--column", "label=lable"],
            2,
            "--column: the data has no column 'lable'; did",
        ),
        (["--data", "DATA/tone.csv", "--column", "label"], 2, "--column: expected FIELD=COLUMN, e.g. text=body, got"),
        (
            ["--data", "DATA/tone.csv", "--task", "instruction"],
            2,
            "--column: no column looks like the prompt of",
        ),
        (
            ["--data", "DATA/tone.csv", "--task", "causal-lm", "--column", "text=text", "--model", "BERT"],
            2,
            "experiment.yaml (not written): task_groups.tone.task: causal-lm needs a decoder",
        ),
        (
            ["--data", "DATA/tone.csv", "--clients", "500", "--model", "BERT"],
            2,
            "experiment.yaml (not written): partition.min_examples: task group tone has 64 training examples for 500",
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    arguments, code, said, here, data, model_folder, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    given = [text.replace("DATA", str(data)).replace("BERT", model_folder("bert")) for text in arguments]
    assert main(["init", *given]) == code
    err = capsys.readouterr().err
    assert err.startswith(f"error: {said}") and err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_on_a_terminal_it_asks_until_it_can_read_the_answers(data, here, model_folder, capsys, monkeypatch):
    tone = str(data / "tone.csv")
    (here / "old.yaml").write_text("mine\n", encoding="utf-8")
    answers = iter(
        [
            *("nowhere.csv", tone, "classify", "", "", "", "none", "2", "phone", "phone-2gib, laptop-8gib"),
            *(model_folder("bert"), "old.yaml", "new.yaml"),
        ]
    )
    monkeypatch.setattr(typer, "prompt", lambda question, default=None: next(answers) or default)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["init"]) == 0
    out = capsys.readouterr().out
    refused = ["data.files: no file nowhere.csv", "'classify' is not known", "expected a whole number", "no device"]
    assert all(f"  {each}" in out or each in out for each in (*refused, "old.yaml: exists already"))
    config = load_config("new.yaml").config
    assert config.task_groups["tone"].task == "sequence-classification"
    assert [(client.name, client.device) for client in config.expanded_clients()] == [
        ("phone-2gib", "phone-2gib"),
        ("laptop-8gib", "laptop-8gib"),
    ]


def test_skew_is_for_clients_with_many_rows(here, model_folder):
    rows = [f"film {i} is {'good' if i % 2 else 'bad'},{i % 2}" for i in range(130)]
    (here / "d.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    wanted = _start.Wanted(data=here / "d.csv", model=model_folder("bert"))
    assert _start.start_with(wanted, here / "x.yaml").scheme == "dirichlet-label"
    assert _start.start_with(wanted._replace(clients=8), here / "x.yaml").scheme == "iid"


@pytest.mark.parametrize("second", ["a", "{} apples"])
def test_a_file_without_a_header_is_not_guessed_at(second, here, capsys):
    (here / "bare.csv").write_text("".join(f"word {i},{second.format(i)}\n" for i in range(50)), encoding="utf-8")
    assert main(["init", "--data", "bare.csv"]) == 2
    err, columns = capsys.readouterr().err, f"'word 0', '{second.format(0)}'"
    assert err.startswith(f"error: bare.csv: the first line names the columns: {columns}; is the header line missing?")
    assert "--task TASK, --column FIELD=COLUMN" in err


def test_an_error_that_may_follow_from_a_guess_says_the_guess(here, model_folder, capsys):
    (here / "notes.csv").write_text("text\n" + "".join(f"note {i}\n" for i in range(50)), encoding="utf-8")
    assert main(["init", "--data", "notes.csv", "--model", model_folder("bert")]) == 2
    err = capsys.readouterr().err
    guess = "notes.csv: 50 rows for causal-lm; text; task and columns are guessed: --task and --column choose others"
    assert "causal-lm needs a decoder" in err and err.endswith(f"; {guess}\n")
    assert main(["init", "--data", "notes.csv", "--task", "klassification"]) == 2
    assert "did you mean token-classification?; the tasks are: causal-lm, chat" in capsys.readouterr().err


def test_names_of_any_alphabet_repeats_and_what_was_guessed_are_said(here, model_folder, capsys):
    rows = [f"film {i % 30} is {'good' if i % 2 else 'bad'},{'yes' if i % 2 else 'no'}" for i in range(60)]
    (here / "\u00fcbung \u65e5\u672c.csv").write_text("\n".join(["body,kind", *rows]) + "\n", encoding="utf-8")
    given = ["--data", "\u00fcbung \u65e5\u672c.csv", "--column", "label=kind", "--model", model_folder("bert")]
    assert main(["init", *given, "--out", "my config.yaml"]) == 0
    out = capsys.readouterr().out
    assert "the task group is named ubung:" in out and list(load_config("my config.yaml").config.task_groups) == [
        "ubung"
    ]
    assert "; " not in (classes := out.split("2 classes: ")[1].split("\n")[0])
    assert classes.endswith(" test rows that repeat training rows are left out)")
    assert "task and the column of text are guessed: --task and --column choose others" in out
    assert out.endswith("wrote my config.yaml; next: atlas train 'my config.yaml'\n")
    assert "\n# atlas train 'my config.yaml'\n" in (here / "my config.yaml").read_text(encoding="utf-8")
