"""A merge as a function, with what it changes in the base, and random factors."""

import torch

from atlas_cli import discovery
from atlas_cli.aggregation.contract import Context, Factors


def method(name):
    return discovery.load("aggregation.methods", name)


def merge(name, current, updates, *, round_number=1, server_memory=None, **options):
    module = method(name)
    chosen = module.Options.model_validate(options)
    return module.aggregate(current, updates, Context(chosen, 0, "g", round_number, server_memory))


def aggregate(name, current, updates):
    return merge(name, current, updates).adapters


def factors(rank, d_in, d_out, seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(rank, d_in, generator=draw, dtype=dtype), torch.randn(d_out, rank, generator=draw, dtype=dtype)
    )
