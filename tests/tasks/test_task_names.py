"""Every task type is found by name and says what BaseTask asks for."""

from types import SimpleNamespace

import pytest

from atlas_cli import discovery, tasks
from atlas_cli.errors import ConfigError

NAMES = [
    *(
        "causal-lm",
        "chat",
        "instruction",
        "multi-label",
        "multiple-choice",
        "question-answering",
        "regression",
        "sequence-classification",
    ),
    "token-classification",
]


def test_all_task_types_are_found():
    assert set(NAMES) <= set(discovery.names("tasks"))


@pytest.mark.parametrize("name", NAMES)
def test_declares_its_contract(name):
    task = tasks.build(name, classes=["a", "b"])
    assert task.fields and not set(task.fields) & set(task.optional_fields)
    assert task.causal_only == (name in ("causal-lm", "chat", "instruction"))
    assert task.has_classes == (name.endswith("classification") or name == "multi-label")
    assert task.better[task.primary_metric] == ("lower" if task.primary_metric == "perplexity" else "higher")
    assert task.better["loss"] == "lower"
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        task.metric().compute()


def test_figures_without_a_direction_are_refused():
    task = tasks.build("sequence-classification", classes=["a", "b"])
    for figures, what in (
        ({"accuracy": 1.0, "distance": 0.0}, "declares no direction for the metric distance"),
        ({"loss": 0.0}, "does not compute the metric accuracy"),
    ):
        metric = SimpleNamespace(compute=lambda figures=figures: figures)
        with pytest.raises(ConfigError, match=what):
            task.scores(metric)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sequence-clasification", ["a", "b"]), "did you mean sequence-classification"),
        (("sequence-classification", []), "needs classes"),
        (("token-classification", ["O", "B-X", "O"]), "named twice: O"),
        (("sequence-classification", ["a", "b"], "auto"), "pooling 'auto'"),
        (("sequence-classification", ["a", "b"], "mean", "acuracy"), "no metric 'acuracy'; did you mean accuracy"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        tasks.build(*arguments[:3], **dict(zip(("metric",), arguments[3:], strict=False)))
