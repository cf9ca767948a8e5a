"""Activation checkpointing: fewer bytes, the same numbers, and a base that is as it was."""

import pytest
import torch
from support.tiny_models import CAUSAL, CONFIGS, FAMILIES, tiny_model

from atlas_cli.federation.parties.measured_memory import saved_bytes
from atlas_cli.models.adapters.lora import build_adapters
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.families import family_of
from atlas_cli.models.halves.checkpointing import checkpointed
from atlas_cli.models.halves.split import blocks_of, client_half, run_half


def run(name, dropout, checkpointing, rank=3):
    whole = tiny_model(name).requires_grad_(False)
    base, family = (whole.base_model if name in CAUSAL else whole), family_of(CONFIGS[name]().model_type)
    for path in family.unused:
        setattr(base, path, None)
    half = client_half(base, family, 3)
    ranks = place_ranks(base, family, rank, range(3), adapted_names(base, family, "auto"))
    adapters = build_adapters(base, ranks, alpha=16, dropout=dropout).train()
    torch.manual_seed(1)
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ids, mask = torch.randint(5, 30, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    mask[0, -2:] = 0
    before = {n: dict(block.__dict__) for n, block in enumerate(blocks_of(base, family))}
    with adapters.attached(base):
        with saved_bytes([*base.parameters(), *adapters.parameters()]) as saved:
            if checkpointing:
                with checkpointed(half, family, ranks):
                    out = run_half(half, mask, input_ids=ids)
            else:
                out = run_half(half, mask, input_ids=ids)
        assert {n: dict(block.__dict__) for n, block in enumerate(blocks_of(base, family))} == before
        out.backward(torch.randn_like(out))
    return out.detach(), [p.grad for p in adapters.parameters()], saved.total


@pytest.mark.parametrize("name", FAMILIES)
def test_same_numbers_in_every_family(name):
    for dropout in (0.0, 0.3):
        out, grads, saved = run(name, dropout, False)
        again, same, fewer = run(name, dropout, True)
        assert torch.equal(out, again)
        assert all(torch.equal(a, b) for a, b in zip(grads, same, strict=True))
        assert fewer < saved / 3


def test_blocks_below_the_lowest_adapter_keep_nothing():
    *_, saved = run("bert", 0.0, True, rank={2: 3})
    # the input of one block of three, 2 x 9 tokens of width 32 in float32, and the mask
    assert saved == 2 * 9 * 32 * 4 + 2 * 9 * 9
