"""A packed row gives what the padded batch gives: every family, half, pattern of lengths and mix of adapters."""

import copy
from contextlib import nullcontext
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.slow import slow
from support.tiny_models import PACKED_FAMILIES, VOCABULARY, tiny_model
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from atlas_cli.models.adapters.lora import AdapterSet, build_adapters
from atlas_cli.models.adapters.per_client_rows import Segment, attached_segments
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import as_base
from atlas_cli.models.halves.last_block import run_last_block
from atlas_cli.models.halves.real_tokens import Packing, positions_of, run_packed
from atlas_cli.models.halves.short_sequences import groups_of, padded_to
from atlas_cli.models.halves.split import client_half, run_half, server_half
from atlas_cli.testing.families import experts_one_by_one

CUT = 2
COUNTED = {  # that the counter does not know of
    torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
}


@cache
def shared(family):
    whole = tiny_model(family).double()
    experts_one_by_one(whole)
    return as_base(whole, family_of(whole.config.model_type), family, "random")


def batch(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, VOCABULARY, mask.shape, generator=generator) * mask  # the padding token is 0
    return ids, mask


def adapters(base, ranks, seed):
    names = adapted_names(base.model, base.family, "auto")
    found = build_adapters(
        base.model,
        place_ranks(base.model, base.family, ranks, range(4), names, "rank"),
        alpha=16,
        seed=seed,
    )
    generator = torch.Generator().manual_seed(seed)
    for adapter in found.adapters.values():
        adapter.double()
        with torch.no_grad():
            adapter.lora_B.copy_(0.1 * torch.randn(adapter.lora_B.shape, generator=generator))
    return found


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lengths", [(7, 3, 5, 1, 3, 3), (4, 4, 4), (6,)])
@pytest.mark.parametrize("family", [*PACKED_FAMILIES, *slow("llama-3", "llama-mqa-tied")])
def test_both_halves_and_their_gradients(family, lengths):
    base = shared(family)
    ids, mask = batch(lengths)
    packing = Packing.of(mask)
    lower, upper = client_half(base.model, base.family, CUT), server_half(base.model, base.family, CUT)
    found = adapters(base, 3, seed=1)
    wanted = list(found.parameters())
    with found.attached(base.model):
        cut = run_half(lower, mask, input_ids=ids)
        padded = run_half(upper, mask, inputs_embeds=cut)
        positions = positions_of(base.model, packing, ids)
        rows = run_packed(lower, packing.lengths, positions, input_ids=packing.pack(ids))
        packed = run_packed(upper, packing.lengths, packing.positions, inputs_embeds=rows)
    same(packing.pack(padded), packed)
    same(packing.unpack(packed), padded * mask.unsqueeze(-1))
    weights = torch.randn(packed.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = torch.autograd.grad((packing.pack(padded) * weights).sum(), wanted, retain_graph=True)
    for a, b in zip(torch.autograd.grad((packed * weights).sum(), wanted), expected, strict=True):
        same(a, b)
    assert base.config._attn_implementation == lower.config._attn_implementation == "sdpa"


def test_segments_of_a_second_sentence_and_the_whole_model():
    base = shared("bert")
    ids, mask = batch((6, 2, 4))
    kinds = (torch.arange(6) > 2).long() * mask
    packing = Packing.of(mask)
    rows = {"input_ids": packing.pack(ids), "token_type_ids": packing.pack(kinds)}
    packed = run_packed(base.model, packing.lengths, packing.positions, **rows)
    same(packed, packing.pack(run_half(base.model, mask, input_ids=ids, token_type_ids=kinds)))


RANKS = st.one_of(st.integers(1, 6), st.dictionaries(st.integers(0, 3), st.integers(1, 6), min_size=1))
MEMBERS = st.lists(st.tuples(RANKS, st.lists(st.integers(1, 6), min_size=1, max_size=3)), min_size=1, max_size=4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "opt", "gpt_neox"])
@settings(max_examples=15, deadline=None)
@given(members=MEMBERS, below=st.booleans())
def test_adapters_by_segment_give_each_client_its_own_outputs_and_gradients(family, members, below):
    """Ranks and layers differ; in some cases the input of the row needs gradients as well, and the base is changed."""
    base = shared(family)
    sets = [adapters(base, ranks, seed) for seed, (ranks, _) in enumerate(members)]
    path = next(iter(sets[0].adapters))
    A, B = (torch.randn(t.shape, dtype=torch.float64) / 10 for t in sets[0].adapters[path].state_dict().values())
    sets[0] = AdapterSet(sets[0].adapters, {path: [(A, B)]})
    batches = [batch(lengths, seed) for seed, (_, lengths) in enumerate(members)]
    packings = [Packing.of(mask) for _, mask in batches]
    embed = base.model.get_input_embeddings()
    inputs = [embed(ids).detach().requires_grad_(below) for ids, _ in batches]
    upper = server_half(base.model, base.family, 0)
    lengths = [length for p in packings for length in p.lengths]
    positions = torch.cat([p.positions for p in packings])
    row = torch.cat([p.pack(x) for p, x in zip(packings, inputs, strict=True)])
    together = [Segment(s, p.tokens) for s, p in zip(sets, packings, strict=True)]
    with attached_segments(base.model, together):
        fused = run_packed(upper, lengths, positions, inputs_embeds=row)
    weights = torch.randn(fused.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wanted = [[*s.parameters(), *([x] if below else [])] for s, x in zip(sets, inputs, strict=True)]
    got = torch.autograd.grad((fused * weights).sum(), [p for each in wanted for p in each])
    first = 0
    for own, (_, mask), packing, x, parameters in zip(sets, batches, packings, inputs, wanted, strict=True):
        with own.attached(base.model):
            alone = packing.pack(run_half(upper, mask, inputs_embeds=x))
        of_client = slice(first, first := first + packing.tokens)
        same(fused[of_client], alone)
        expected = torch.autograd.grad((alone * weights[of_client]).sum(), parameters)
        for gradient, right in zip(got, expected, strict=False):
            same(gradient, right)
        got = got[len(parameters) :]


READS = {
    "last": lambda i, length: [length - 1],
    "first": lambda i, length: [0],
    "some, and of some none": lambda i, length: list(range(i % 2, length, 3)) if i % 3 else [],
}


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("family", PACKED_FAMILIES)
def test_the_last_block_for_the_tokens_that_are_read(family, reads):
    """Outputs, and gradients of adapters and of what the block is given; also beyond a sliding window."""
    base = shared(family)
    lengths = (7, 3, 5, 5, 1, 3, 3)
    packing = Packing.of(batch(lengths)[1])
    read = torch.tensor([sum(lengths[:i]) + place for i, n in enumerate(lengths) for place in READS[reads](i, n)])
    found = adapters(base, {2: 2, 3: 3}, seed=1)
    rows = torch.randn(packing.tokens, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows.requires_grad_()
    wanted = [rows, *(p for path, a in found.adapters.items() if ".3." in path for p in a.parameters())]
    last = server_half(base.model, base.family, 3)

    def attached(only_read):
        return attached_segments(base.model, [Segment(found, len(read) if only_read else packing.tokens)])

    with attached(False):
        whole = run_packed(last, lengths, packing.positions, inputs_embeds=rows)[read]
    ours = run_last_block(last, lengths, packing.positions, read, rows, attached)
    same(ours, whole)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = torch.autograd.grad((whole * weights).sum(), wanted)
    for a, b in zip(torch.autograd.grad((ours * weights).sum(), wanted), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)  # LLaMA's norm is in float32, and is run twice


def test_a_row_costs_what_its_real_tokens_cost():
    """Counted, not timed: other clients in the pass add nothing, and padding only to attention, as its groups are."""
    base = shared("gpt2")
    config, half = base.config, client_half(base.model, base.family, CUT)
    lengths = (9, 2, 2, 1)
    packing = Packing.of(batch(lengths)[1])
    two = [adapters(base, {0: 2, 1: 5}, seed) for seed in range(2)]
    segments = [Segment(two[0], 11), Segment(two[1], 3)]
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter, attached_segments(base.model, segments):
        ids = packing.pack(batch(lengths)[0])
        run_packed(half, packing.lengths, packing.positions, input_ids=ids)
    d, tokens = config.n_embd, sum(lengths)
    linear = 2 * tokens * 12 * d * d
    lora = 2 * tokens * 4 * d * (2 + 5)  # on c_attn: d in, 3 d out
    groups = [(len(group), padded_to(max(lengths[i] for i in group))) for group in groups_of(lengths)]
    attention = sum(4 * sequences * width * width * d for sequences, width in groups)
    assert counter.get_total_flops() == CUT * (linear + attention) + lora


def test_the_modules_of_a_half_are_looked_through_once(monkeypatch):
    """Which of them have a config, whose attention changes for a pass: not anew for each pass."""
    base = shared("bert")
    half, looked = copy.copy(client_half(base.model, base.family, CUT)), []
    modules = half.modules
    monkeypatch.setattr(half, "modules", lambda: looked.append(1) or modules())
    first, second = (run_packed(half, [3], torch.arange(3), input_ids=torch.arange(3)) for _ in range(2))
    assert looked == [1] and torch.equal(first, second)


def test_the_attention_function_is_given_back_after_an_error():
    base = shared("bert")
    half = copy.copy(client_half(base.model, base.family, CUT))
    with pytest.raises(RuntimeError), nullcontext():
        run_packed(half, [3], torch.arange(4), input_ids=torch.arange(4))
    assert base.config._attn_implementation == half.config._attn_implementation == "sdpa"
