"""Matching of gradients: the texts on which clients' steps have the gradients that their adapters show.

Texts of clients with equal adapters are run together. The gradient of each is exact and costs one backward: with x
(B, T, d_in) what an adapted layer gets and G (B, T, d_out) the gradient of its output,

    grad_i B = s sum_t G_it (A x_it)^T,  grad_i A = s sum_t (B^T G_it) x_it^T

so that a gradient of A shows no more than r directions of inputs, and none while B is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from atlas_cli.audit.figures import Inapplicable
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.models.adapters.lora import LoRAAdapter
from atlas_cli.models.halves.split import run_half
from atlas_cli.privacy.mechanisms.contract import penalty_of, sent_by

OWN_STEP = 2_000_000  # of noise that a mechanism draws for the attacker: the client's own is not known


class ClientSteps:
    """The first local steps of clients with equal adapters, as a function of input embeddings, without dropout.

    Args:
        party: one of the clients, with the adapters that were delivered.
        mask: (B, T), 0 on padding, the texts of the first client, then those of the next.
        counts: the number of texts of each of the K clients.
        when: the round.

    Attributes:
        table: the embedding (V, D) of every token.
        owners: the client of each text, (B,).

    Raises:
        Inapplicable: adapters of another form than LoRA's.
    """

    def __init__(self, party: SplitClient, mask: Tensor, counts: list[int], when: int) -> None:
        model: Any = party.base.model
        embedding = model.get_input_embeddings()
        self._party, self._counts, self._when = party, counts, when
        self.mask, self._mask = mask, mask.to(party.device)
        self.owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        self._dtype = embedding.weight.dtype
        with torch.no_grad():
            ids = torch.arange(embedding.num_embeddings, device=embedding.weight.device)
            self.table = embedding(ids).float().cpu()  # as the blocks get them, of models that scale their embeddings
        if any(type(adapter) is not LoRAAdapter for adapter in party.adapters.adapters.values()):
            raise Inapplicable("adapters have another form than LoRA's")
        party.adapters.train(False)

    def gradients(self, embedded: Tensor, at_cut: Tensor) -> dict[str, Tensor]:
        """The gradients (K, *shape) by parameter, which can be differentiated again.

        Args:
            embedded: embeddings (B, T, D); at_cut: the gradients that come back to the clients, (B, T, D).
        """
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        if not embedded.requires_grad:  # then nothing would: weights are frozen
            embedded = embedded.detach().requires_grad_()
        with self._attached(inputs, outputs), sdpa_kernel(SDPBackend.MATH):  # others have no second derivatives
            loss = self._loss(embedded.to(self._mask.device), at_cut.to(self._mask.device) * self._mask[:, :, None])
            given = torch.autograd.grad(loss, list(outputs.values()), create_graph=True)
        found = {}
        for path, G in zip(outputs, given, strict=True):
            adapter = self._party.adapters.adapters[path]
            A, B = (factor.detach() for factor in adapter.factors())
            x, G = inputs[path].to(A.dtype), G.to(A.dtype)
            s = adapter.scaling
            found[f"{path}.lora_A"] = self.by_client(s * torch.einsum("btr,bti->bri", G @ B, x))
            found[f"{path}.lora_B"] = self.by_client(s * torch.einsum("bto,btr->bor", G, x @ A.T))
        return {name: gradient.cpu() for name, gradient in found.items()}

    def _loss(self, embedded: Tensor, at_cut: Tensor) -> Tensor:
        """What the clients back-propagate: activations as sent times what came back, and penalties of mechanisms."""
        party, now, privacy = self._party, (self._when, OWN_STEP), self._party.privacy
        hidden = run_half(party.half, self._mask.long(), inputs_embeds=embedded.to(self._dtype))
        penalties = hidden.new_zeros(())
        for mechanism in privacy.mechanisms:
            parts = (each.split(self._counts) for each in (embedded, hidden, self._mask))
            for e, h, mask in zip(*parts, strict=True):
                if (penalty := penalty_of(mechanism, partial(_itself, e), h, mask)) is not None:
                    penalties = penalties + penalty
        for mechanism in privacy.mechanisms:
            hidden = sent_by(mechanism, hidden, self._mask, now)
        if privacy.activations is not None:
            hidden = privacy.activations(hidden * self._mask[:, :, None].to(hidden.dtype), *now)
        return (hidden.float() * at_cut).sum() + penalties

    def by_client(self, each: Tensor) -> Tensor:
        """The sum (K, ...) over the texts of each client, of (B, ...)."""
        if len(self._counts) == len(each):
            return each
        return each.new_zeros(len(self._counts), *each.shape[1:]).index_add(0, self.owners.to(each.device), each)

    @contextmanager
    def _attached(self, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> Iterator[None]:
        """Inside the block the adapters act, by plain operations: those of training can be differentiated only once."""
        adapters = self._party.adapters
        with ExitStack() as stack:
            for path in dict.fromkeys((*adapters.adapters, *adapters.frozen)):
                hook = self._adding(path, inputs, outputs)
                stack.callback(self._party.base.model.get_submodule(path).register_forward_hook(hook).remove)
            yield

    def _adding(
        self, path: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor]
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        adapters = self._party.adapters
        adapter, beside = adapters.adapters.get(path), adapters.beside(path)

        def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            total, x = output, args[0]
            for A, B in beside:
                total = total + nn.functional.linear(nn.functional.linear(x.to(A.dtype), A), B)
            if adapter is None:
                return total.to(output.dtype)
            A, B = (factor.detach() for factor in adapter.factors())
            scaled = adapter.scaling * nn.functional.linear(nn.functional.linear(x.to(A.dtype), A), B)
            inputs[path], outputs[path] = x, (total + scaled).to(output.dtype)
            return outputs[path]

        return add


def _itself(embedded: Tensor) -> Tensor:
    return embedded
