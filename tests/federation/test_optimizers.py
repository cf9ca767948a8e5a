import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from atlas_cli.config.schema.experiment import OptimizerConfig, ScheduleConfig, TrainingConfig
from atlas_cli.federation.parties.optimizers import (
    build_optimizer,
    learning_rate_factor,
    set_learning_rate,
    state_bytes,
)

HALF = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({}, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ({"warmup": 0.4}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        ({"name": "linear"}, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ({"name": "linear", "warmup": 0.2}, [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        # a share of a step is rounded up: 1 of 10
        ({"name": "linear", "warmup": 0.01}, [1, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9]),
        (
            {"name": "cosine", "warmup": 0.2},
            [0.5, 1, 1, None, (1 + HALF) / 2, None, 0.5, None, (1 - HALF) / 2, None],
        ),
    ],
    ids=["constant", "warm-up", "linear", "linear-warm-up", "short-warm-up", "cosine-warm-up"],
)
def test_schedule(schedule, factors):
    training = TrainingConfig(schedule=ScheduleConfig(**schedule), rounds=5, local_steps=2)
    found = [learning_rate_factor(training, step) for step in range(10)]
    assert found == [pytest.approx(f) if f is not None else g for f, g in zip(factors, found, strict=True)]


@given(
    st.sampled_from(["constant", "linear", "cosine"]),
    st.floats(0, 0.99),
    st.integers(1, 300),
    st.randoms(use_true_random=False),
)
def test_schedule_is_pure_positive_and_falls_after_warm_up(name, warmup, total, random):
    training = TrainingConfig(schedule=ScheduleConfig(name=name, warmup=warmup), rounds=1, local_steps=total)
    in_order = [learning_rate_factor(training, step) for step in range(total)]
    steps = list(range(total))
    random.shuffle(steps)
    assert [learning_rate_factor(training, step) for step in steps] == [in_order[step] for step in steps]
    assert all(0 < f <= 1 for f in in_order)
    warm = math.ceil(warmup * total)
    assert in_order[:warm] == sorted(in_order[:warm])
    assert in_order[warm:] == sorted(in_order[warm:], reverse=True)


def parameter(value=(1.0, -2.0, 3.0)):
    p = nn.Parameter(torch.tensor(value))
    p.grad = torch.tensor([0.1, 0.2, -0.3])
    return p


def test_sgd_by_hand():
    p = parameter()
    opt = build_optimizer([p], OptimizerConfig(name="sgd", lr=0.5, momentum=0.9, weight_decay=0.1))
    expected = torch.tensor([1.0, -2.0, 3.0])
    velocity = torch.zeros(3)
    for rate in (0.5, 0.2):
        set_learning_rate(opt, rate)
        velocity = 0.9 * velocity + torch.tensor([0.1, 0.2, -0.3]) + 0.1 * expected
        expected = expected - rate * velocity
        opt.step()
    torch.testing.assert_close(p.detach(), expected)


def test_adamw_by_hand():
    p = parameter()
    opt = build_optimizer([p], OptimizerConfig(lr=0.5, betas=[0.8, 0.95], weight_decay=0.1))
    g, x = torch.tensor([0.1, 0.2, -0.3]), torch.tensor([1.0, -2.0, 3.0])
    m, v = torch.zeros(3), torch.zeros(3)
    for t, rate in ((1, 0.5), (2, 0.2)):
        set_learning_rate(opt, rate)
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        x = x - rate * 0.1 * x
        x = x - rate * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
        opt.step()
    torch.testing.assert_close(p.detach(), x)


def test_nothing_to_train_has_no_optimizer():
    assert build_optimizer([], OptimizerConfig()) is None
    assert state_bytes(None) == 0


def test_state_bytes_are_two_moments_and_a_step_count():
    p = parameter()
    opt = build_optimizer([p], OptimizerConfig())
    assert state_bytes(opt) == 0
    opt.step()
    assert state_bytes(opt) == 2 * 3 * 4 + 4
