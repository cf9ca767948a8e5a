"""The unsplit model with PEFT and ``transformers.Trainer`` on one client's texts."""

from __future__ import annotations

import copy
import tempfile
from collections import deque
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from contestants.experiment import Arena
from contestants.plain import Features, Whole, pad, with_adapters
from contestants.turns import StepByStep, Work

EPOCHS = 1000  # more than anybody waits for


def whole_model(arena: Arena) -> Whole:
    """A copy of the stock model with all adapters and the head, as they are before training."""
    return Whole(with_adapters(copy.deepcopy(arena.stock.model), arena.adapters(), arena.alpha), arena.head())


def trainer_steps(arena: Arena, sampling: str = "random", *, everybody: bool = False) -> StepByStep:
    """Steps of the Trainer's own loop, with its defaults but a constant rate: shuffled, padded to the longest.

    Args:
        sampling: ``train_sampling_strategy`` of the Trainer, "random" or "group_by_length".
        everybody: on the texts of all clients, as many in a step as they have together; else on those of the first.
    """
    model, clients = whole_model(arena), arena.clients if everybody else arena.clients[:1]
    taken: deque[Work] = deque()  # batches are put together ahead of their steps

    def collate(features: Features) -> dict[str, Tensor]:
        taken.append(Work(len(features), sum(len(each["input_ids"]) for each in features)))
        return pad(features, arena.pad)

    def loop(after_step: Callable[[Work], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=arena.batch * len(clients),
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
                use_cpu=arena.device.type == "cpu",
                seed=arena.seed,
            )
            Trainer(
                model=model,
                args=arguments,
                train_dataset=[text for client in clients for text in arena.texts(client)],
                data_collator=collate,
                callbacks=[_AfterStep(lambda: after_step(taken.popleft()))],
            ).train()

    return StepByStep(loop)


class _AfterStep(TrainerCallback):
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.call()
