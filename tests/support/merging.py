"""A merge as a function, with what it changes in the base, and random factors."""

from dataclasses import replace

import torch

from atlas_cli import discovery
from atlas_cli.aggregation.contract import Context, Factors, Layer
from atlas_cli.models.adapters.lora import LORA
from atlas_cli.planning.method import load_method

OPTIONS = {"ravan": {"heads": 4, "size": 8}}  # for layers as small as those of tests


def method(name, *, server_memory=None, **options):
    chosen = load_method(name)
    return chosen(chosen.Options.model_validate(options), server_memory=server_memory)


def asked(name):
    """The section ``aggregation`` of a config for a small model."""
    return {"method": name, "options": OPTIONS.get(name, {})}


def of_factors():
    """The names of the methods that merge factors A and B of dW."""
    return [name for name in discovery.names("aggregation.methods") if method(name).form() == LORA]


def merge(name, current, updates, *, round_number=1, number=1, server_memory=None, **options):
    made = method(name, server_memory=server_memory, **options)
    sent = [update if update.extras else replace(update, extras=no_extras(made, update)) for update in updates]
    return made.aggregate(current, sent, Context("g", round_number, weights(updates), number))


def no_extras(made, update):
    """What a method sends besides adapters, as if nothing had changed in it."""
    layers = {path: Layer(f.rank, f.A.shape[1], f.B.shape[0]) for path, f in update.adapters.items()}
    return {name: torch.zeros(shape) for name, shape in made.extra_tensors(layers).up.items()}


def weights(updates):
    """Of a group that has no other clients: by layer and rank."""
    found = {}
    for update in updates:
        for path, f in update.adapters.items():
            by_rank = found.setdefault(path, {})
            by_rank[f.rank] = by_rank.get(f.rank, 0.0) + update.weight
    return found


def aggregate(name, current, updates):
    return merge(name, current, updates).adapters


def factors(rank, d_in, d_out, seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(rank, d_in, generator=draw, dtype=dtype), torch.randn(d_out, rank, generator=draw, dtype=dtype)
    )
