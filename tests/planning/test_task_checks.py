"""What a task cannot do is refused with the plan, by what the task says of itself and not by its name."""

import pytest
import torch.nn.functional as F

from atlas_cli.errors import ConfigError
from atlas_cli.planning.checks import _check_randomised
from atlas_cli.tasks import load, sequence_classification


class _Rating(sequence_classification.Task):
    """Classes, and a metric of its own."""

    primary_metric = "loss"


class _Smoothed(sequence_classification.Task):
    """Classes, and a loss of its own."""

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels, label_smoothing=0.1), len(labels)


@pytest.mark.parametrize("name", ["regression", "token-classification", "question-answering", "causal-lm"])
def test_only_one_class_an_example_is_randomised(name):
    with pytest.raises(ConfigError, match=rf"privacy.labels: randomises one class .* {name} has none or several"):
        _check_randomised(name, load(name), "none")


def test_a_loss_that_is_corrected_is_the_known_one():
    _check_randomised("rating", _Rating, "forward")
    _check_randomised("smoothed", _Smoothed, "none")
    with pytest.raises(
        ConfigError, match=r"privacy\.labels\.correction: .* smoothed has another loss or head; use none"
    ):
        _check_randomised("smoothed", _Smoothed, "forward")
