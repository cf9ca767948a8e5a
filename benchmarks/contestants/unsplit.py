"""The unsplit model with PEFT and ``transformers.Trainer`` on one client's texts."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments

from contestants.experiment import Arena
from contestants.plain import Whole, pad, with_adapters
from contestants.turns import StepByStep, Work

EPOCHS = 1000  # more than anybody waits for


def whole_model(arena: Arena) -> Whole:
    """A copy of the stock model with all adapters and the head, as they are before training."""
    return Whole(with_adapters(copy.deepcopy(arena.stock.model), arena.adapters(), arena.alpha), arena.head())


def trainer_steps(arena: Arena, sampling: str = "random") -> StepByStep:
    """Steps of the Trainer's own loop, with its defaults but a constant rate: shuffled, padded to the longest.

    Args:
        sampling: ``train_sampling_strategy`` of the Trainer, "random" or "group_by_length".
    """
    model = whole_model(arena)

    def loop(after_step: Callable[[Work], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=arena.batch,
                num_train_epochs=EPOCHS,
                learning_rate=arena.lr,
                lr_scheduler_type="constant",
                max_grad_norm=arena.norm,
                train_sampling_strategy=sampling,
                remove_unused_columns=False,
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
                report_to="none",
                use_cpu=True,
                seed=arena.seed,
            )
            Trainer(
                model=model,
                args=arguments,
                train_dataset=arena.texts(arena.clients[0]),
                data_collator=partial(pad, pad_id=arena.pad),
                callbacks=[_AfterStep(lambda: after_step(Work(model.samples, model.tokens)))],
            ).train()

    return StepByStep(loop)


class _AfterStep(TrainerCallback):
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.call()
