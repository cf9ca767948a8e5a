"""Every task keeps the contract, by the tests that a task of another package can run on itself."""

import math
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from atlas_cli.data.collate import collate
from atlas_cli.data.task_fields import canonical
from atlas_cli.errors import ConfigError, PluginError
from atlas_cli.tasks import causal_lm, instruction, question_answering, regression, sequence_classification
from atlas_cli.tasks import token_classification as tokens
from atlas_cli.tasks._heads import Classifier, PooledHead
from atlas_cli.tasks.contract import IGNORE, BaseTask, Feature, Metric, check_declared
from atlas_cli.testing.tasks import Conformance, conformance

TEXTS = ["a good film", "a very bad film about a city", "good", "bad music and a bad play", "a film about good music"]
TONES = ["pos", "neg", "pos", "neg", "pos"]
CONTEXT = "john lives in new york and works in berlin"
ASKED = [("who works in berlin", "john"), ("where is work", "berlin"), ("where is home", "new york"), ("why", "")]
SENTENCES = [
    (["john", "lives", "in", "york"], ["B-PER", "O", "O", "B-LOC"]),
    (["new", "york", "is", "a", "city"], ["B-LOC", "I-LOC", "O", "O", "O"]),
    (["good", "music"], ["O", "O"]),
    (["berlin"], ["B-LOC"]),
]
SCORED = [
    {"text": text, "text_pair": TEXTS[i - 1], "label": float(i) / 2} if i % 2 else {"text": text, "label": float(i) / 2}
    for i, text in enumerate(TEXTS)
]

TestSequenceClassification = conformance(
    sequence_classification.Task,
    [{"text": text, "label": tone} for text, tone in zip(TEXTS, TONES, strict=True)],
    ["neg", "pos"],
)
TestRegression = conformance(regression.Task, SCORED)
TestTokenClassification = conformance(
    tokens.Task, [{"tokens": words, "tags": tags} for words, tags in SENTENCES], ["O", "B-PER", "B-LOC", "I-LOC"]
)
TestQuestionAnswering = conformance(
    question_answering.Task,
    [{"question": asked, "context": CONTEXT, "answers": answer} for asked, answer in ASKED],
)
TestCausalLm = conformance(causal_lm.Task, [{"text": text} for text in TEXTS if " " in text])
TestInstruction = conformance(
    instruction.Task, [{"prompt": text, "response": f"it is {tone}"} for text, tone in zip(TEXTS, TONES, strict=True)]
)


class _Error(Metric):
    """The mean absolute error over words."""

    def __init__(self):
        self.total = self.count = 0

    def update(self, logits, labels, features):
        errors = (logits.squeeze(-1) - labels).abs()[labels != IGNORE]
        self.total, self.count = self.total + errors.sum().item(), self.count + len(errors)

    def compute(self):
        return {"mae": self.total / self.count}


class Task(BaseTask):
    """A number for each token, such as how long it is read."""

    fields = ("text", "times")
    forms: ClassVar = {"times": "any"}
    label_dtype = torch.float32
    primary_metric = "mae"
    better: ClassVar = {"mae": "lower"}
    prediction_fields = ("times",)

    def encode(self, row, tokenizer, max_length):
        ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        cut = len(ids) > max_length
        return [Feature(input_ids=ids[:max_length], labels=row["times"][: len(ids)][:max_length], truncated=cut)]

    def label_tensor(self, features, length):
        rows = [f["labels"] + [float(IGNORE)] * (length - len(f["labels"])) for f in features]
        return torch.tensor(rows, dtype=torch.float32)

    def label_shape(self, batch, tokens):
        return (batch, tokens)

    def build_head(self, hidden_size, lm_head):
        return _PerToken(hidden_size, 1)

    def targets(self, labels):
        return labels

    def loss(self, logits, labels):
        return self.loss_at(logits[labels != IGNORE], labels[labels != IGNORE])

    def loss_at(self, logits_NC, targets_N):
        return F.mse_loss(logits_NC.squeeze(-1), targets_N), len(targets_N)

    def metric(self):
        return _Error()

    def predictions(self, logits, features):
        return [{"times": each[: len(f["input_ids"]), 0].tolist()} for each, f in zip(logits, features, strict=True)]


class _PerToken(Classifier):
    def forward(self, hidden, mask):
        return super().forward(hidden)


TestNumbersByToken = conformance(
    Task, [{"text": text, "times": [0.5 * len(word) - 2 for word in text.split()]} for text in TEXTS]
)


class _LastBatch(Metric):
    """The error of the last batch alone."""

    def update(self, logits, labels, features):
        self.error = F.mse_loss(logits.squeeze(-1), labels).item()

    def compute(self):
        return dict.fromkeys(("pearson", "spearman", "rmse", "mae", "loss"), self.error)


class _Halved(regression._Errors):
    """Terms of half of each error."""

    def terms(self, part):
        return {name: term._replace(value=term.value / 2) for name, term in super().terms(part).items()}


class _SumOfAll(torch.nn.Module):
    def forward(self, hidden_BTD, mask_BT):
        return hidden_BTD.sum((1, 2)).unsqueeze(-1)


def summed(self, logits, labels):
    return F.mse_loss(logits.squeeze(-1), labels, reduction="sum"), len(labels)


def labels_of(self, features, length):
    return torch.tensor([feature["labels"] for feature in features])


def with_a_set(self, row, tokenizer, most):
    return [{**feature, "meta": {1}} for feature in regression.Task.encode(self, row, tokenizer, most)]


def uncut(self, row, tokenizer, most):
    return regression.Task.encode(self, row, tokenizer, 48)


def said_before(self, logits, features):
    return [{"label": float(feature["labels"])} for feature in features]


def wide(self, size, lm_head):
    return PooledHead(size, 1, "mean").double()


SABOTAGE = {
    "test_it_says_what_the_contract_asks": {"lable_dtype": torch.float32},
    "test_features_are_plain_and_the_same_again": {"encode": with_a_set},
    "test_a_long_row_is_cut_and_marked": {"encode": uncut},
    "test_labels_have_the_shape_and_dtype_that_are_declared": {"label_dtype": torch.int32, "label_tensor": labels_of},
    "test_padding_does_not_change_the_loss": {"build_head": lambda self, size, lm_head: _SumOfAll()},
    "test_the_loss_is_a_mean_over_what_it_counts": {"loss": summed},
    "test_targets_and_reads_are_what_the_loss_depends_on": {"reads": lambda self, labels, mask_BT: mask_BT < 0},
    "test_the_head_works_on_either_side": {"build_head": wide},
    "test_figures_are_the_same_in_one_or_many_batches": {"metric": lambda self: _LastBatch()},
    "test_training_makes_figures_better_in_their_direction": {"better": {**regression.Task.better, "rmse": "higher"}},
    "test_weights_add_up": {"weight": lambda self, features: float(len(features)) ** 2},
    "test_predictions_have_the_names_that_are_declared": {"prediction_fields": ("label", "score")},
    "test_terms_of_examples_add_up_to_the_figures": {"metric": lambda self: _Halved()},
    "test_predictions_do_not_depend_on_labels": {"predictions": said_before},
    "test_labels_can_be_shown": {"label_text": lambda self, feature: "a\nb"},
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_a_broken_promise_is_found(name):
    broken = type("Task", (regression.Task,), SABOTAGE[name])
    with pytest.raises((AssertionError, ConfigError, TypeError)):  # a set is no JSON
        getattr(conformance(broken, SCORED)(), name)()


def test_each_promise_has_a_task_that_breaks_it():
    assert set(SABOTAGE) == {name for name in vars(Conformance) if name.startswith("test_")}


def test_what_labels_and_figures_are_is_held_against_what_the_task_says():
    """At the first batch, and where a model that has not diverged is scored."""
    feature = Feature(input_ids=[1, 2], labels=[0.5, 1.0])
    assert collate(Task(), [feature], 0).labels.tolist() == [[0.5, 1.0]]
    for broken, says in (
        ({"label_dtype": torch.int64}, r"torch.float32 of \(1, 2\), and .* say torch.int64 of \(1, 2\)"),
        ({"label_shape": BaseTask.label_shape}, r"torch.float32 of \(1, 2\), and .* say torch.float32 of \(1,\)"),
        ({"label_tensor": lambda self, features, length: [1]}, "gives list, and "),
    ):
        with pytest.raises(PluginError, match=rf"test_task_suite\.py: Broken\.label_tensor .*{says}|gives list"):
            collate(type("Broken", (Task,), {"__module__": __name__, **broken})(), [feature], 0)
    metric = _Error()
    metric.total, metric.count = float("nan"), 1
    with pytest.raises(PluginError, match=r"test_task_suite\.py: _Error\.compute gives mae as nan, expected a number"):
        Task().scores(metric)
    metric.diverged = True
    assert math.isnan(Task().scores(metric)["mae"])


def test_a_list_may_be_empty_where_the_task_says_so():
    class Tagged(Task):
        fields = ("text", "tags")
        forms: ClassVar = {"tags": "classes"}
        may_be_empty = ("tags",)

    check_declared(Tagged)
    rows = [{"text": "a", "tags": []}, {"text": "b", "tags": ""}, {"text": "c", "tags": "x y"}]
    columns = {"text": "text", "tags": "tags"}
    assert [row["tags"] for row in canonical(rows, columns, Tagged, "data", "d")] == [[], [], ["x", "y"]]
    with pytest.raises(ConfigError, match="row 1 of the data, column 'tags' is empty"):
        canonical([{"text": "a", "tags": None}], columns, Tagged, "data", "d")
    Tagged.may_be_empty = ()
    with pytest.raises(ConfigError, match="row 1 of the data, column 'tags' is empty"):
        canonical(rows, columns, Tagged, "data", "d")
    Tagged.may_be_empty = ("text",)
    with pytest.raises(
        ConfigError, match=r"Task\.may_be_empty: text is no list; its form must be words, classes or set"
    ):
        check_declared(Tagged)


def test_what_text_is_generated_from_are_fields():
    class Told(instruction.Task):
        prompt_fields = ("promt",)

    with pytest.raises(ConfigError, match=r"Task\.prompt_fields: promt is no field; did you mean prompt\?"):
        check_declared(Told)
    Told.prompt_fields = ("prompt",)
    check_declared(Told)
