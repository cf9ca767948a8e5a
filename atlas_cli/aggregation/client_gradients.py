"""Applies a method's client term to the gradients of a local step, on whichever machine the client computes."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_cli.aggregation.checks import (
    require_corrected,
    require_lossless,
    require_penalty,
    require_tensors,
    term_of,
)
from atlas_cli.aggregation.contract import (
    Adapters,
    BaseMethod,
    ClientTerm,
    ExtraTensors,
    Factors,
    absorb,
    scales_of,
)
from atlas_cli.models.adapters.lora import AdapterSet


def apply_term(term: ClientTerm, adapters: AdapterSet) -> None:
    """Add the gradient of the term's penalty after a local step's backward, then let the term correct the gradients."""
    named = {f"{path}.{name}": p for path, each in adapters.adapters.items() for name, p in each.named_parameters()}
    scales = scales_of(adapters)
    penalty = term.penalty(absorb(named, scales))
    if penalty is not None:
        require_penalty(term, penalty).backward()
    with torch.no_grad():
        given = gradients_of(adapters)
        corrected = term.corrected(given)
        if corrected is not None:
            replace_gradients(adapters, require_corrected(term, corrected, given))


def gradients_of(adapters: AdapterSet) -> dict[str, Factors]:
    """The gradients of a client's adapters, as ``ClientTerm.corrected`` is given them."""
    named = {f"{path}.{name}": p for path, each in adapters.adapters.items() for name, p in each.named_parameters()}
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named.items()}
    return absorb(gradients, scales_of(adapters))


def replace_gradients(adapters: AdapterSet, gradients: Adapters) -> None:
    """Set the gradients of what is trained of a client's adapters, as ``ClientTerm.corrected`` gives them."""
    for path, factors in gradients.items():
        adapter = adapters.adapters[path]
        for parameter, gradient in ((adapter.lora_A, factors.A), (adapter.lora_B, factors.B / adapter.scaling)):
            if parameter.requires_grad:
                parameter.grad = gradient


def end_round(method: BaseMethod, term: ClientTerm, adapters: AdapterSet, told: ExtraTensors) -> dict[str, Tensor]:
    """What a term sends after a client's local steps; its state, too, is held against what the method tells."""
    dtype = next(adapters.parameters()).dtype
    if not method.PRUNES:  # else the state is of the ranks before
        require_tensors(term, "state", term.state, told.at_client, "at_client", all_of_them=False, dtype=dtype)
    require_lossless(term, term_of(method))
    extra = term.end_round(factors_of(adapters))
    require_tensors(term, "end_round", extra, told.up, "up", dtype=dtype)
    return extra


def factors_of(adapters: AdapterSet) -> dict[str, Factors]:
    """The adapters of a client as scale-free factors."""
    return absorb(adapters.state(), scales_of(adapters))


def term_bytes(term: ClientTerm | None) -> int:
    """Bytes of the state that a client's term keeps at the moment."""
    return sum(4 * value.numel() for value in term.state.values()) if term is not None else 0
