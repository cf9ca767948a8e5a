"""Multiple choice: each choice a sequence, the choices of a row in one batch, the loss a softmax over them."""

import json

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertForMultipleChoice

from atlas_cli import tasks
from atlas_cli.cli import main
from atlas_cli.config.schema.experiment import TaskGroupConfig
from atlas_cli.data.collate import batch_features, collate
from atlas_cli.data.read import read_group
from atlas_cli.errors import ConfigError
from atlas_cli.tasks import multiple_choice
from atlas_cli.testing.tasks import conformance

CITIES = ["paris", "berlin", "york"]
ROWS = [
    {"question": f"what is the capital of {land} ?", "choices": CITIES[: 3 - i % 2], "answer": i % 2}
    for i, land in enumerate(["france", "germany", "france", "germany", "john"])
]
TestMultipleChoice = conformance(multiple_choice.Task, ROWS)
TestWithContext = conformance(
    multiple_choice.Task, [{**row, "context": f"in {i} a city"} for i, row in enumerate(ROWS)]
)


def encoded(rows, tokenizer, max_length=32):
    task = tasks.build("multiple-choice")
    features = [task.encode(row, tokenizer, max_length) for row in rows]
    for number, of_row in enumerate(features):
        for feature in of_row:
            feature["row"] = number
    return task, [feature for of_row in features for feature in of_row]


def test_each_choice_is_a_pair_with_what_is_asked(bert, gpt):
    row = {"question": "what is good ?", "choices": ["paris", "new york"], "answer": "new york"}
    _, features = encoded([row], bert)
    assert [bert.decode(f["input_ids"]) for f in features] == [
        "[CLS] what is good ? [SEP] paris [SEP]",
        "[CLS] what is good ? [SEP] new york [SEP]",
    ]
    assert [f["labels"] for f in features] == [0, 1] and features[0]["token_type_ids"]
    _, features = encoded([{**row, "context": "john lives in"}], gpt)
    assert gpt.decode(features[1]["input_ids"]) == "john lives in\nwhat is good ? new york"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=6), st.integers(0, 99))
def test_loss_and_figures_are_those_of_a_softmax_over_each_rows_choices(counts, seed):
    generator = torch.Generator().manual_seed(seed)
    task, features = tasks.build("multiple-choice"), []
    for row, count in enumerate(counts):
        right = int(torch.randint(count, (), generator=generator))
        features += [
            {"input_ids": [1], "labels": int(i == right), "row": row, "meta": {"choice": i, "text": str(i)}}
            for i in range(count)
        ]
    logits = torch.randn(len(features), 1, generator=generator)
    by_row = logits.squeeze(-1).split(counts)
    rights = [[f["labels"] for f in features if f["row"] == row].index(1) for row in range(len(counts))]
    losses = [nn.functional.cross_entropy(x[None], torch.tensor([y])) for x, y in zip(by_row, rights, strict=True)]
    loss, count = task.loss(logits, task.label_tensor(features, 1))
    assert count == len(counts)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    metric = task.metric()
    order = torch.randperm(len(features), generator=generator).tolist()
    for i in order:
        metric.update(logits[i : i + 1], task.label_tensor([features[i]], 1), [features[i]])
    figures = task.scores(metric)
    right = [int(x.argmax()) == y for x, y in zip(by_row, rights, strict=True)]
    assert figures["accuracy"] == pytest.approx(sum(right) / len(right)) and metric.trials() == {"accuracy": len(right)}
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_loss_equals_hugging_face(bert):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForMultipleChoice(BertConfig(vocab_size=len(bert), **sizes)).eval()
    task, features = encoded([row | {"choices": CITIES} for row in ROWS[:2]], bert)
    batch = collate(task, features, bert.pad_token_id)
    head = tasks.build("multiple-choice", pooling="first").build_head(16, None)
    head.classifier.load_state_dict(model.classifier.state_dict())
    inputs = {"attention_mask": batch.attention_mask, "token_type_ids": batch.token_type_ids}
    hidden = model.bert(batch.input_ids, **inputs).last_hidden_state
    pooled = model.bert.pooler.activation(model.bert.pooler.dense(hidden))
    loss, _ = task.loss(head(pooled, batch.attention_mask), batch.labels)
    shaped = {name: value.view(2, 3, -1) for name, value in inputs.items()}
    expected = model(batch.input_ids.view(2, 3, -1), **shaped, labels=torch.tensor([0, 1])).loss
    torch.testing.assert_close(loss, expected)


def test_the_choices_of_a_row_are_in_one_batch(bert):
    task, features = encoded(ROWS * 3, bert)
    seen = []
    for step in range(5):  # an epoch: of 15 rows with at most 3 choices, 3 rows in a batch of 9 to 11
        batch = batch_features(task, features, 11, 0, "c", step)
        rows = list(dict.fromkeys(f["row"] for f in batch))
        assert [f for row in rows for f in features if f["row"] == row] == batch and len(batch) <= 11
        seen += rows
    assert sorted(seen) == list(range(15))
    assert {f["row"] for f in batch_features(task, features, 1, 0, "c", 0)} != set()


def test_predictions_are_joined_over_a_row(bert):
    task, features = encoded(ROWS[:1], bert)
    found = task.joined_predictions(task.predictions(torch.tensor([[0.0], [2.0], [1.0]]), features))
    assert (found["answer"], found["choice"]) == ("berlin", 1)
    assert found["scores"] == pytest.approx(torch.tensor([0.0, 2.0, 1.0]).softmax(0).tolist())


ARC = {"text": ["the sun", "a city"], "label": ["A", "B"]}


@pytest.mark.parametrize(
    ("choices", "answer", "right"),
    [
        (CITIES, 2, 2),
        (CITIES, "1", 1),
        (CITIES, "york", 2),
        (["1", "2"], 0, 0),
        (["0", "1"], "1", 1),
        (ARC, "B", 1),
        ({"text": CITIES, "label": ["1", "2", "3"]}, "3", 2),
    ],
)
def test_the_answer_is_a_number_a_text_or_a_label(bert, choices, answer, right):
    _, features = encoded([{"question": "what", "choices": choices, "answer": answer}], bert)
    assert [f["labels"] for f in features].index(1) == right


@pytest.mark.parametrize(
    ("choices", "answer", "says"),
    [
        ("a|b", 0, "'choices' must be a list of texts, none of them empty"),
        (["a", " "], 0, "none of them empty"),
        (["a"], 0, "has 1 of at least 2 choices"),
        (["a", "a"], 0, r"two choices are the same \('a'\)"),
        (["1", "2"], "1", "answer '1' is the text of choice 0 and the number of another; write numbers"),
        (CITIES, 3, "answer 3 is neither a number from 0 to 2 nor one of the choices"),
        (CITIES, True, "answer True is neither"),
        (CITIES, "rome", "answer 'rome' is neither"),
        (ARC, "C", r"nor one of the choices \(A, B\)"),
        ({"text": CITIES, "label": ["A"]}, "A", "has 3 texts and other labels"),
    ],
)
def test_what_does_not_fit_is_named(choices, answer, says):
    with pytest.raises(ConfigError, match=says):
        multiple_choice.Task.check({"question": "q", "choices": choices, "answer": answer})


def test_columns_of_choices_and_a_context_are_read(tmp_path):
    """SWAG's layout."""
    header = "sent1,sent2,ending0,ending1,label\n"
    file = tmp_path / "swag.csv"
    file.write_text(header + "".join(f"john is {i},he,goes,plays {i},{i % 2}\n" for i in range(10)), encoding="utf-8")
    data = {"files": str(file), "context": "sent1", "question": "sent2", "choices": ["ending0", "ending1"]}
    found = read_group("g", TaskGroupConfig(task="multiple-choice", data=data), 0)
    row = next(row for row in (*found.train, *found.test) if row["context"] == "john is 3")
    assert (row["question"], row["choices"], row["answer"]) == ("he", ["goes", "plays 3"], "1")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["split-federated", "centralized"])
def test_a_split_run_learns_from_the_rows_choices(tmp_path, model_folder, mode):
    words = ["paris", "london", "john", "city", "film"]
    rows = [
        {"question": f"what is it {words[i % 5]}", "choices": [words[i % 5], words[(i + 1 + i % 3) % 5]], "answer": 0}
        for i in range(30)
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = {
        "name": "choices",
        "mode": mode,
        "device": "cpu",
        "model": {"name": model_folder("gpt2"), "split_layer": 2},
        "task_groups": {"g": {"task": "multiple-choice", "data": {"files": str(tmp_path / "d.jsonl")}}},
        "clients": {"c": {"task_group": "g", "count": 2}},
        "holdout": {"duplicates": "keep"},
        "training": {"rounds": 1, "local_steps": 2, "batch_size": 4, "max_length": 16},
        "output": {"dir": str(tmp_path / "runs")},
    }
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["train", str(tmp_path / "x.yaml"), "training.batch_size=1"]) == 2
    assert main(["train", str(tmp_path / "x.yaml")]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    before, after = (json.loads(line)["test"] for line in (run / "metrics.jsonl").read_text("utf-8").splitlines())
    assert after.keys() == {"accuracy", "loss"} and after["loss"] != before["loss"]
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    assert mode == "centralized" or manifest["verify"]["g"]["passed"]
    examples = [json.loads(line)["examples"] for line in (run / "clients.jsonl").read_text("utf-8").splitlines()]
    assert max(examples) > 0 and all(count % 2 == 0 for count in examples)  # rows are whole in every batch
