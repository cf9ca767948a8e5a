"""Split training as it is first written: a copy of the model's half for each client, one client after another."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from contestants.experiment import Arena
from contestants.plain import hidden_states, pad, with_adapters
from contestants.turns import Work


class NaiveSplit:
    """Clients with a PEFT copy of the lower half each, and a server with one of the upper half and a head.

    In a step every client sends its activations, gets the gradient of its own mean loss and steps; the server steps
    once, with the mean of its gradients over clients.

    Args:
        length: pad every batch to this many tokens; None: to its longest text.
    """

    def __init__(self, arena: Arena, length: int | None = None) -> None:
        self.arena, self.length = arena, length
        self.clients = {
            name: with_adapters(arena.half("client"), arena.adapters("client"), arena.alpha) for name in arena.clients
        }
        self.server, self.head = arena.half("server"), arena.head()
        if upper := arena.adapters("server"):
            self.server = with_adapters(self.server, upper, arena.alpha)
        self.optimizers = {name: self._adamw(_trained(half)) for name, half in self.clients.items()}
        self.served = [*_trained(self.server), *_trained(self.head)]
        self.optimizer = self._adamw(self.served)
        self._batches = {name: self._shuffled(name) for name in arena.clients}

    def padded(self, length: int) -> NaiveSplit:
        """The same parties, whose batches are padded to ``length``."""
        other = copy.copy(self)
        other.length = length
        return other

    def step(self) -> Work:
        """One global step on everybody's next batch."""
        batches = {name: pad(next(texts), self.arena.pad, self.length) for name, texts in self._batches.items()}
        work = Work(
            sum(len(batch["labels"]) for batch in batches.values()),
            sum(int(batch["attention_mask"].sum()) for batch in batches.values()),
        )
        self.train(batches)
        return work

    def train(self, batches: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
        """One global step on a batch a client; mean losses."""
        losses = {name: self._train_client(name, batch) for name, batch in batches.items()}
        for parameter in self.served:
            if parameter.grad is not None:
                parameter.grad /= len(batches)
        self._step(self.optimizer, self.served)
        return losses

    def _train_client(self, name: str, batch: Mapping[str, Tensor]) -> float:
        batch = {key: tensor.to(self.arena.device) for key, tensor in batch.items()}
        half, mask = self.clients[name], batch["attention_mask"]
        sent = hidden_states(half, mask, input_ids=batch["input_ids"])
        received = sent.detach().requires_grad_()
        hidden = hidden_states(self.server, mask, inputs_embeds=received)
        loss = self.head(hidden, mask, batch["labels"])
        loss.backward()  # the server's gradients add up until all clients are served
        sent.backward(received.grad)
        self._step(self.optimizers[name], _trained(half))
        return loss.item()

    def _step(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
        if self.arena.norm:
            nn.utils.clip_grad_norm_(parameters, self.arena.norm)
        optimizer.step()
        optimizer.zero_grad()

    def _adamw(self, parameters: list[nn.Parameter]) -> torch.optim.AdamW:
        return torch.optim.AdamW(parameters, lr=self.arena.lr, weight_decay=0.0)

    def _shuffled(self, name: str) -> Iterator[list[dict[str, Any]]]:
        draw, texts = random.Random(f"{self.arena.seed} {name}"), self.arena.texts(name)
        while True:
            draw.shuffle(texts)
            for start in range(0, len(texts), self.arena.batch):
                yield texts[start : start + self.arena.batch]


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
