"""A merge as a function, with what it changes in the base, and random factors."""

import torch

from atlas_cli.aggregation.contract import Context, Factors
from atlas_cli.planning.method import load_method


def method(name, *, server_memory=None, **options):
    chosen = load_method(name)
    return chosen(chosen.Options.model_validate(options), server_memory=server_memory)


def merge(name, current, updates, *, round_number=1, server_memory=None, **options):
    made = method(name, server_memory=server_memory, **options)
    return made.aggregate(current, updates, Context("g", round_number))


def aggregate(name, current, updates):
    return merge(name, current, updates).adapters


def factors(rank, d_in, d_out, seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(rank, d_in, generator=draw, dtype=dtype), torch.randn(d_out, rank, generator=draw, dtype=dtype)
    )
