"""An oracle of training that knows nothing of splits, hooks or messages.

dW = s B A is added to the weights of an unsplit Hugging Face model, and plain torch.optim steps what is trained.
"""

import copy

import torch
from torch import nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from atlas_cli.data.collate import batch_indices, collate


def hidden(base, batch, *adapter_sets):
    """(B, T, D) of the whole model with adapters merged into its weights."""
    weights = {}
    for adapters in adapter_sets:
        for path, adapter in adapters.adapters.items():
            layer = base.get_submodule(path)
            delta = adapter.scaling * adapter.lora_B @ adapter.lora_A
            weights[f"{path}.weight"] = layer.weight + (delta.T if isinstance(layer, Conv1D) else delta)
    kwargs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return functional_call(base, weights, (), kwargs).last_hidden_state


def optimizer(parameters, config):
    if config.name == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.AdamW(parameters, config.lr, betas=tuple(config.betas), weight_decay=config.weight_decay)


def step(optimizer, parameters, gradients, max_norm):
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(parameters, max_norm)
    optimizer.step()


def trained(head, adapters):
    return [*(p for p in head.parameters() if p.requires_grad), *adapters.parameters()]


def batches_of(federation, client):
    """The client's batches of the first round."""
    features, training = federation.train_features(client), federation.config.training
    lengths = [len(f["input_ids"]) for f in features]
    for i in range(training.local_steps):
        rows = batch_indices(lengths, training.batch_size, federation.config.seed, client, i)
        yield collate(federation.data["g"].task, [features[row] for row in rows], federation.pad)


class ByHand:
    """Copies of all that a federation of one group trains, and the first round on them.

    Attributes:
        adapters: the clients' adapters; head, upper: the server's.
        losses: by client, of every step.
    """

    def __init__(self, federation, head=None):
        self.federation, self.config = federation, federation.config.training
        self.adapters = {name: copy.deepcopy(client.adapters) for name, client in federation.clients.items()}
        self.head = copy.deepcopy(head or federation.server.heads["g"])
        self.upper = copy.deepcopy(federation.server.groups["g"].adapters)
        self.optimizers = {
            name: optimizer([*each.parameters()], self.config.client_optimizer) for name, each in self.adapters.items()
        }
        self.losses = {name: [] for name in self.adapters}
        self.batches = {name: list(batches_of(federation, name)) for name in self.adapters}

    def loss(self, client, i, head, upper):
        batch = self.batches[client][i]
        out = hidden(self.federation.base.model, batch, self.adapters[client], upper)
        loss, count = self.federation.data["g"].task.loss(head(out, batch.attention_mask), batch.labels)
        self.losses[client].append(loss.item())
        return loss, count

    def step_client(self, client, loss):
        parameters = [*self.adapters[client].parameters()]
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        step(self.optimizers[client], parameters, gradients, self.config.max_grad_norm)

    def pooled(self):
        server = trained(self.head, self.upper)
        stepper = optimizer(server, self.config.server_optimizer)
        for i in range(self.config.local_steps):
            found = {client: self.loss(client, i, self.head, self.upper) for client in self.adapters}
            total = sum(count for _, count in found.values())
            together = sum(loss * count for loss, count in found.values()) / total
            gradients = torch.autograd.grad(together, server, retain_graph=True)
            for client, (loss, _) in found.items():
                self.step_client(client, loss)
            step(stepper, server, gradients, self.config.max_grad_norm)

    def sequential(self, order):
        server = trained(self.head, self.upper)
        stepper = optimizer(server, self.config.server_optimizer)
        for i in range(self.config.local_steps):
            for client in order(i):
                loss, _ = self.loss(client, i, self.head, self.upper)
                gradients = torch.autograd.grad(loss, server, retain_graph=True)
                self.step_client(client, loss)
                step(stepper, server, gradients, self.config.max_grad_norm)

    def per_client(self):
        states, counts = [], []
        for client in self.adapters:
            head, upper = copy.deepcopy(self.head), copy.deepcopy(self.upper)
            server = trained(head, upper)
            stepper = optimizer(server, self.config.server_optimizer)
            counts.append(0)
            for i in range(self.config.local_steps):
                loss, count = self.loss(client, i, head, upper)
                counts[-1] += count
                gradients = torch.autograd.grad(loss, server, retain_graph=True)
                self.step_client(client, loss)
                step(stepper, server, gradients, self.config.max_grad_norm)
            states.append(server)
        with torch.no_grad():
            for p, *each in zip(trained(self.head, self.upper), *states, strict=True):
                p.copy_(sum(n * q for n, q in zip(counts, each, strict=True)) / sum(counts))
