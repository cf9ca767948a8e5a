"""Norm outputs that the backward makes anew: the same bits, fewer bytes, and nothing left behind."""

import pytest
import torch
from support.tiny_models import CONFIGS, FAMILIES, tiny_model

from atlas_cli.federation.parties.measured_memory import saved_bytes
from atlas_cli.models.adapters import add_low_rank
from atlas_cli.models.adapters.lora import build_adapters
from atlas_cli.models.adapters.per_client_rows import Segment, attached_segments
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import as_base
from atlas_cli.models.halves.real_tokens import run_packed
from atlas_cli.models.halves.split import run_half

LENGTHS, WIDTH, BLOCKS = (7, 4), 32, 3
READ_NO_NORM = {"olmo2"}  # queries and values are made of the residual stream itself


def step(name, parts, frozen=()):
    """Gradients of adapters in blocks 0 to 2, and what was saved for them, padded or as a packed row."""
    base = as_base(tiny_model(name), family_of(CONFIGS[name]().model_type), name, "random")
    half = base.client_half(BLOCKS)
    ranks = place_ranks(base.model, base.family, 3, range(BLOCKS), adapted_names(base.model, base.family, "auto"))
    adapters = build_adapters(base.model, ranks, alpha=16)
    torch.manual_seed(0)
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    adapters.train_only(parts)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.randint(5, 30, mask.shape) * mask
    positions = torch.cat([torch.arange(n) for n in LENGTHS])
    found = []
    for row in (False, True)[: 1 + base.family.packs]:
        with saved_bytes([*base.model.parameters(), *adapters.parameters()]) as saved:
            if row:
                with attached_segments(base.model, [Segment(adapters, n) for n in LENGTHS]):
                    out = run_packed(half, LENGTHS, positions, input_ids=ids[mask.bool()])
            else:
                with adapters.attached(base.model):
                    out = run_half(half, mask, input_ids=ids)
        torch.manual_seed(1)
        trained = [p for p in adapters.parameters() if p.requires_grad]
        found.append((torch.autograd.grad(out, trained, torch.randn_like(out)), saved.total, out[..., 0].numel()))
    assert not any(module._forward_hooks for module in base.model.modules())
    return found


@pytest.mark.parametrize("parts", [("A", "B"), ("A",), ("B",)])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_the_same_bits_and_fewer_bytes_are_saved(name, parts, monkeypatch):
    lean = step(name, parts)
    monkeypatch.setattr(add_low_rank, "norm_of", lambda _: None)
    for (gradients, fewer, tokens), (kept, saved, _) in zip(lean, step(name, parts), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(gradients, kept, strict=True))
        # one tensor a block that has a trained one below, shared by its adapters; A alone needs what it is given
        spared = "A" in parts and name not in READ_NO_NORM
        assert saved - fewer == (4 * WIDTH * tokens * (BLOCKS - 1) if spared else 0)


def test_a_tensor_that_no_norm_made_is_kept_as_it_is():
    x = torch.randn(5, 4, requires_grad=True)
    A, B = torch.randn(2, 4, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    spans = [add_low_rank.Span(0, 5, 0.5)]
    out = add_low_rank.add_low_rank(torch.zeros(5, 3), x, spans, [A, B])
    expected = 0.5 * x @ A.T @ B.T
    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(*(torch.autograd.grad(y.square().sum(), [x, A, B]) for y in (out, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)
