"""A base for another thread: what is attached to one acts in it alone, and no number is held twice."""

from itertools import chain

import pytest
import torch
from support.tiny_models import CONFIGS, FAMILIES, tiny_model

from atlas_cli.models.families import family_of
from atlas_cli.models.frozen import kernel_order
from atlas_cli.models.frozen.kernel_order import prepack_blocks, prepacked_error, prepacked_record
from atlas_cli.models.frozen.load import as_base
from atlas_cli.models.frozen.own_modules import with_own_modules
from atlas_cli.models.halves.real_tokens import run_packed
from atlas_cli.models.halves.split import blocks_of, run_half


def base_of(name):
    return as_base(tiny_model(name), family_of(CONFIGS[name]().model_type), name, "random")


def run(base, embeds):
    return run_half(base.server_half(1), torch.ones(embeds.shape[:2], dtype=torch.int64), inputs_embeds=embeds)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_numbers_with_other_modules(name):
    base = base_of(name)
    own = with_own_modules(base)
    assert not {*base.model.modules()} & {*own.model.modules()}
    assert own.config is not base.config and own.config.to_dict() == base.config.to_dict()
    tensors = ([id(t) for t in chain(m.parameters(), m.buffers())] for m in (base.model, own.model))
    assert next(tensors) == next(tensors)
    embeds = torch.randn(2, 5, base.hidden_size)
    assert torch.equal(run(own, embeds), run(base, embeds))


def test_what_is_attached_to_one_does_not_act_in_the_other():
    base = base_of("bert")
    own, embeds = with_own_modules(base), torch.randn(1, 4, base.hidden_size)
    before = run(base, embeds)
    blocks_of(own.model, own.family)[1].register_forward_hook(lambda *_: pytest.fail("of the other"))
    during = []
    hook = blocks_of(base.model, base.family)[0].register_forward_hook(
        lambda *_: during.append(own.config._attn_implementation)
    )
    run_packed(base.model, [4], torch.arange(4), inputs_embeds=embeds[0])
    hook.remove()
    assert during == [own.config._attn_implementation] == ["sdpa"]
    assert torch.equal(run(base, embeds), before)


@pytest.mark.skipif(not kernel_order.available(), reason="this CPU has other kernels")
def test_weights_are_put_in_order_once_for_all(monkeypatch):
    monkeypatch.setattr(kernel_order, "LEAST", 0)
    assert kernel_order.available()  # which is tried once, with a weight of its own
    made, in_order = [], kernel_order.in_order
    monkeypatch.setattr(kernel_order, "in_order", lambda weight: (made.append(1), in_order(weight))[1])
    base = base_of("gpt2")
    layers = prepack_blocks([base], 2**30)
    own, embeds = with_own_modules(base), torch.randn(2, 5, base.hidden_size)
    assert torch.equal(run(own, embeds), run(base, embeds))
    assert len(made) == layers - 4  # those of the first block were not used
    assert prepacked_record([base]) == prepacked_record([own])
    with torch.no_grad():
        blocks_of(base.model, base.family)[1].attn.c_attn.weight[0, 0] += 1  # behind the copies' back
    assert prepacked_error([base]) == prepacked_error([own]) > 0.9
