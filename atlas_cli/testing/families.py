"""Whether a family file is right: tested on a tiny model of random weights against Hugging Face's own, uncut.

    from atlas_cli.testing.families import CHECKS, check_family

    def test_olmo2():
        check_family(Olmo2Config(num_hidden_layers=4, hidden_size=32, ...))

The config is of a supported ``model_type``, with four blocks or so of a small width. ``CHECKS`` has the same checks by
name, for a test each: ``@pytest.mark.parametrize("name", CHECKS)`` and ``CHECKS[name](config)``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from atlas_cli.config.schema.experiment import LoraConfig
from atlas_cli.experiment.api.parties import SplitClient
from atlas_cli.models.adapters.lora import AdapterSet, build_adapters
from atlas_cli.models.adapters.per_client_rows import Segment, attached_segments
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import FrozenBase, as_base
from atlas_cli.models.halves.checkpointing import checkpointed
from atlas_cli.models.halves.last_block import run_last_block
from atlas_cli.models.halves.real_tokens import Packing, positions_of, run_packed
from atlas_cli.models.halves.split import blocks_of, client_half, run_half, server_half
from atlas_cli.planning.devices.cost import block_shapes, client_step, products_of
from atlas_cli.suggest import did_you_mean
from atlas_cli.testing.flops import counted

LENGTHS = (7, 3, 5, 3)


def check_family(hf_config: PreTrainedConfig) -> None:
    """All checks, one after the other.

    Raises:
        AssertionError: one fails; says which, and what differs.
        ConfigError: the config asks for what the family does not cover.
    """
    for name, check in CHECKS.items():
        try:
            check(hf_config)
        except AssertionError as error:
            raise AssertionError(f"{hf_config.model_type}, {name}: {error}") from error


def check_paths(hf_config: PreTrainedConfig) -> None:
    """What the family names is there, and ``stages`` name every linear layer of a block once."""
    base = _base(hf_config)
    family, model = base.family, base.model
    modules = dict(model.named_modules())
    for path in (family.blocks, *family.input_side, *([family.final_norm] if family.final_norm else [])):
        assert path in modules, f"{type(model).__name__} has no {path}{did_you_mean(path, modules)}"
    blocks = modules[family.blocks]
    of_its_own = isinstance(blocks, nn.ModuleList) and len(blocks) == hf_config.num_hidden_layers
    assert of_its_own, f"{family.blocks} is not the list of all blocks"
    linear = products_of(blocks_of(model, family)[0], hf_config)
    named = [name for stage in family.stages for name in stage]
    assert sorted(named) == sorted(linear), f"stages name {sorted(named)}, a block has {sorted(linear)}"
    assert len(family.stages) == 4, "stages are four: queries, keys and values; output; feed-forward's first; its last"
    assert adapted_names(model, family, "auto"), "no layer has the name of a target"


def check_cuts(hf_config: PreTrainedConfig) -> None:
    """At every split layer, outputs and gradients of all adapters are those of the uncut model, to the last bit."""
    base = _base(hf_config)
    stock = copy.deepcopy(base.model)
    adapters = _adapters(base, 3)
    wanted = list(adapters.parameters())
    for name, mask in _masks().items():
        ids = _ids(hf_config, mask)
        with adapters.attached(stock):
            whole = stock(input_ids=ids, attention_mask=mask).last_hidden_state
            gradients = torch.autograd.grad(_score(whole, mask), wanted)
        for cut in range(1, base.n_layers + 1):
            where = f"split layer {cut}, {name}"
            with adapters.attached(base.model):
                sent = run_half(client_half(base.model, base.family, cut), mask, input_ids=ids)
                received = sent.detach().requires_grad_()
                ours = run_half(server_half(base.model, base.family, cut), mask, inputs_embeds=received)
                _score(ours, mask).backward()
                sent.backward(received.grad)
            _same(where, ours, whole, 0.0)
            for parameter, gradient in zip(wanted, gradients, strict=True):
                assert parameter.grad is not None and bool(gradient.any()), f"{where}: an adapter has no gradient"
                _same(f"{where}: gradients", parameter.grad, gradient, 0.0)
                parameter.grad = None


def check_real_tokens(hf_config: PreTrainedConfig) -> None:
    """A row of real tokens alone gives what the padded batch gives, also where the last block is cut short."""
    if not family_of(hf_config.model_type).packs:
        return
    base = _base(hf_config, torch.float64)
    cut, last = max(1, base.n_layers // 2), base.n_layers - 1
    mask = _masks()["padding on the right"]
    ids, packing, adapters = _ids(hf_config, mask), Packing.of(mask), _adapters(base, 3)
    read = torch.tensor([sum(LENGTHS[: i + 1]) - 1 for i in range(len(LENGTHS))])
    with adapters.attached(base.model):
        whole = run_half(base.model, mask, input_ids=ids)
        positions, lower = positions_of(base.model, packing, ids), client_half(base.model, base.family, cut)
        rows = run_packed(lower, LENGTHS, positions, input_ids=packing.pack(ids))
        rows = run_packed(server_half(base.model, base.family, cut), LENGTHS, packing.positions, inputs_embeds=rows)
        _same("a row of real tokens", rows, packing.pack(whole), 1e-9)
        wanted = list(adapters.parameters())
        theirs = torch.autograd.grad(_score(whole, mask), wanted)
        for a, b in zip(torch.autograd.grad(_score(packing.unpack(rows), mask), wanted), theirs, strict=True):
            _same("gradients of a row of real tokens", a, b, 1e-9)
        below = run_half(client_half(base.model, base.family, last), mask, input_ids=ids) if last else None
    if below is None:
        return
    final = server_half(base.model, base.family, last)
    short = run_last_block(
        final, LENGTHS, packing.positions, read, packing.pack(below), lambda _: adapters.attached(base.model)
    )
    _same("the last block for the tokens that are read", short, packing.pack(whole)[read], 1e-6)


def check_rows_of_clients(hf_config: PreTrainedConfig) -> None:
    """Adapters of two clients in one pass give each its own outputs and gradients."""
    if not family_of(hf_config.model_type).packs:
        return
    base = _base(hf_config, torch.float64)
    half, lengths = client_half(base.model, base.family, base.n_layers), [LENGTHS, LENGTHS[::-1]]
    masks = [(torch.arange(max(LENGTHS)) < torch.tensor(each)[:, None]).long() for each in lengths]
    ids, packings = [_ids(hf_config, mask) for mask in masks], [Packing.of(mask) for mask in masks]
    owners = [_adapters(base, rank, seed) for seed, rank in enumerate((2, 3))]
    row = torch.cat([p.pack(i) for p, i in zip(packings, ids, strict=True)])
    positions = torch.cat([positions_of(base.model, p, i) for p, i in zip(packings, ids, strict=True)])
    with attached_segments(base.model, [Segment(a, p.tokens) for a, p in zip(owners, packings, strict=True)]):
        together = run_packed(half, [n for each in lengths for n in each], positions, input_ids=row)
    parts = together.split([p.tokens for p in packings])
    for part, own, packing, mask, each in zip(parts, owners, packings, masks, ids, strict=True):
        with own.attached(base.model):
            alone = run_half(half, mask, input_ids=each)
        _same("a client among others", part, packing.pack(alone), 1e-9)
        wanted = list(own.parameters())
        ours = torch.autograd.grad(_score(packing.unpack(part), mask), wanted, retain_graph=True)
        for a, b in zip(ours, torch.autograd.grad(_score(alone, mask), wanted), strict=True):
            _same("gradients of a client among others", a, b, 1e-9)


def check_checkpointing(hf_config: PreTrainedConfig) -> None:
    """Blocks that are run again in the backward give the same bits."""
    base = _base(hf_config)
    mask = _masks()["padding on the right"]
    ids, adapters, half = _ids(hf_config, mask), _adapters(base, 3), client_half(base.model, base.family, base.n_layers)
    ranks = {path: adapter.rank for path, adapter in adapters.adapters.items()}
    found = []
    for again in (False, True):
        with adapters.attached(base.model):
            with checkpointed(half, base.family, ranks) if again else nullcontext():
                out = run_half(half, mask, input_ids=ids)
            found.append([out, *torch.autograd.grad(_score(out, mask), list(adapters.parameters()))])
    for plain, recomputed in zip(*found, strict=True):
        _same("checkpointing", recomputed, plain, 0.0)


def check_work(hf_config: PreTrainedConfig) -> None:
    """FLOPs of a client are those that torch counts, whatever layer is adapted: ``stages`` are in order."""
    base = _base(hf_config)
    shapes, cut = block_shapes(base.family, base.config), base.n_layers
    mask = torch.ones(2, 16, dtype=torch.int64)
    linear = {n for n, m in blocks_of(base.model, base.family)[0].named_modules() if isinstance(m, nn.Linear | Conv1D)}
    for name in (n for stage in base.family.stages for n in stage if n in linear):
        for lowest, checkpointing in ((0, False), (cut - 1, False), (cut - 1, True)):
            client = SplitClient(
                "a", None, dict.fromkeys(range(lowest, cut), 2), cut,
                base=base, lora=LoraConfig(targets=[name]), checkpointing=checkpointing,
            )  # fmt: skip
            said = client_step(shapes, cut, client.ranks, 2, 16, checkpointing=checkpointing)
            inputs = {"input_ids": mask, "attention_mask": mask}
            sent, forward = counted(lambda: client.compute_activations(inputs))  # noqa: B023
            _, backward = counted(lambda: client.backward(torch.ones_like(sent)))  # noqa: B023
            where = f"adapters on {name} from block {lowest} on" + ", checkpointing" * checkpointing
            assert said.forward == forward, f"{where}: {said.forward:,.0f} FLOPs forward, {forward:,} are counted"
            assert said.backward == backward, f"{where}: {said.backward:,.0f} FLOPs backward, {backward:,} are counted"


def _base(hf_config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> FrozenBase:
    family = family_of(hf_config.model_type)
    auto = AutoModelForCausalLM if family.causal else AutoModel
    torch.manual_seed(0)
    whole = auto.from_config(hf_config, dtype=dtype)
    if dtype is torch.float64:
        experts_one_by_one(whole)
    return as_base(whole, family, hf_config.model_type, "random")


def experts_one_by_one(whole: PreTrainedModel) -> None:
    """Compute experts as in the paper: the product of all of them together takes no float64."""
    if whole._can_set_experts_implementation():
        whole.set_experts_implementation("eager")


def _adapters(base: FrozenBase, rank: int, seed: int = 0) -> AdapterSet:
    """Adapters on the default targets of all blocks, whose outputs are not 0."""
    names = adapted_names(base.model, base.family, "auto")
    ranks = place_ranks(base.model, base.family, rank, range(base.n_layers), names)
    adapters = build_adapters(base.model, ranks, alpha=2.0 * rank, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for adapter in adapters.adapters.values():
        adapter.to(base.dtype)
        adapter.lora_B.data = 0.1 * torch.randn(adapter.lora_B.shape, generator=generator).to(base.dtype)
    return adapters


def _masks() -> dict[str, Tensor]:
    longest = max(LENGTHS)
    right = (torch.arange(longest) < torch.tensor(LENGTHS)[:, None]).long()
    return {"no padding": torch.ones_like(right), "padding on the right": right, "padding on the left": right.flip(1)}


def _ids(hf_config: PreTrainedConfig, mask: Tensor) -> Tensor:
    """Random tokens; padding where the mask is 0."""
    padding = getattr(hf_config, "pad_token_id", None) or 0
    drawn = torch.randint(hf_config.vocab_size - 1, mask.shape, generator=torch.Generator().manual_seed(1))
    return torch.where(mask > 0, drawn + (drawn >= padding), padding)


def _score(hidden: Tensor, mask: Tensor) -> Tensor:
    """A number that depends on all real tokens."""
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2)).to(hidden.dtype)
    return torch.where(mask[..., None] > 0, hidden * weights, 0).sum()


def _same(what: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    gap = float((ours - theirs).detach().abs().max())
    assert gap <= tolerance * max(1.0, float(theirs.detach().abs().max())), f"{what} differ by {gap:.3g}"


CHECKS: Mapping[str, Callable[[Any], None]] = {
    "paths": check_paths,
    "cuts": check_cuts,
    "real tokens": check_real_tokens,
    "rows of clients": check_rows_of_clients,
    "checkpointing": check_checkpointing,
    "work": check_work,
}
