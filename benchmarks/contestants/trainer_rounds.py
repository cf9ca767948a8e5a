"""FedAvg of LoRA adapters in one process: a Hugging Face Trainer for each client in turn, on one model.

The loop that OpenFedLLM's ``main_sft.py`` has by its description (github.com/rui-ye/OpenFedLLM; "OpenFedLLM: Training
Large Language Models on Decentralized Private Data via Federated Learning", KDD 2024), written anew: before a client's
turn the global adapters are loaded into the model, a new Trainer takes its local steps with a new optimizer, its
adapters are copied, and after the last client they are averaged by numbers of examples. Theirs trains causal language
models under TRL's SFTTrainer, which trains as the Trainer that it is derived from; here everybody classifies.
"""

from __future__ import annotations

import tempfile

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments

from contestants.experiment import Arena
from contestants.plain import Features, pad
from contestants.turns import Work
from contestants.unsplit import whole_model


class TrainerRounds:
    """A step is a round of all clients, each with one epoch of its texts."""

    def __init__(self, arena: Arena) -> None:
        self.arena, self.whole = arena, whole_model(arena)
        self.texts = {client: arena.texts(client) for client in arena.clients}
        self._global = self._state()
        self._round = self._tokens = 0
        self._folder = tempfile.TemporaryDirectory(prefix="atlas-trainer-")

    def step(self) -> Work:
        """One round: local training of each client in turn, then the mean by examples."""
        self._round, self._tokens = self._round + 1, 0
        trained = [self._train(texts) for texts in self.texts.values()]
        counts = [len(texts) for texts in self.texts.values()]
        self._global = {
            name: sum(count / sum(counts) * state[name] for count, state in zip(counts, trained, strict=True))
            for name in self._global
        }
        self._load()
        return Work(sum(counts), self._tokens)

    def close(self) -> None:
        """Remove what Trainers may have left."""
        self._folder.cleanup()

    def _train(self, texts: Features) -> dict[str, Tensor]:
        self._load()
        arguments = TrainingArguments(
            output_dir=self._folder.name,
            per_device_train_batch_size=self.arena.batch,
            num_train_epochs=1,
            learning_rate=self.arena.lr,
            lr_scheduler_type="constant",
            max_grad_norm=self.arena.norm,
            remove_unused_columns=False,
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
            use_cpu=self.arena.device.type == "cpu",
            seed=self.arena.seed + self._round,
        )
        trainer = Trainer(model=self.whole, args=arguments, train_dataset=list(texts), data_collator=self._collate)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return self._state()

    def _collate(self, features: Features) -> dict[str, Tensor]:
        self._tokens += sum(len(each["input_ids"]) for each in features)
        return pad(features, self.arena.pad)

    def _state(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.whole.trained().items()}

    @torch.no_grad()
    def _load(self) -> None:
        for name, parameter in self.whole.trained().items():
            parameter.copy_(self._global[name])
