"""Every task type is found by name and says what BaseTask asks for."""

import pytest

from atlas_cli import discovery, tasks
from atlas_cli.errors import ConfigError

NAMES = ["causal-lm", "instruction", "question-answering", "sequence-classification", "token-classification"]


def test_all_task_types_are_found():
    assert set(NAMES) <= set(discovery.names("tasks"))


@pytest.mark.parametrize("name", NAMES)
def test_declares_its_contract(name):
    task = tasks.build(name, classes=["a", "b"])
    assert task.fields and not set(task.fields) & set(task.optional_fields)
    assert task.causal_only == (name in ("causal-lm", "instruction"))
    assert task.has_classes == name.endswith("classification")
    assert task.higher_is_better == (task.primary_metric != "perplexity")
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        task.metric().compute()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sequence-clasification", ["a", "b"]), "did you mean sequence-classification"),
        (("sequence-classification", []), "needs classes"),
        (("token-classification", ["O", "B-X", "O"]), "named twice: O"),
        (("sequence-classification", ["a", "b"], "auto"), "pooling 'auto'"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        tasks.build(*arguments)
