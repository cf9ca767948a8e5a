"""What a replay gives is what is computed, and what cannot be replayed, or is not the same, is computed."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.far_device import far_device
from support.slow import slow
from support.tape import Tape
from support.tiny_models import CONFIGS, PACKED_FAMILIES, tiny_model
from torch import nn

from atlas_cli.models.adapters.lora import build_adapters
from atlas_cli.models.adapters.per_client_rows import Segment
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.cuda_graphs import graphed_passes
from atlas_cli.models.cuda_graphs.captured import Captured, Lane
from atlas_cli.models.cuda_graphs.graphed_passes import STEP, GraphedPasses, PassRows
from atlas_cli.models.cuda_graphs.recorder import Recording
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import as_base
from atlas_cli.testing.families import experts_one_by_one


def base_of(name):
    whole = tiny_model(name).double()
    experts_one_by_one(whole)
    return as_base(whole, family_of(CONFIGS[name]().model_type), name, "random")


def adapters(base, rank, blocks, seed):
    names = adapted_names(base.model, base.family, "auto")
    ranks = place_ranks(base.model, base.family, {block: rank for block in blocks}, blocks, names, "rank")
    found = build_adapters(base.model, ranks, alpha=16, seed=seed)
    for adapter in found.adapters.values():
        nn.init.normal_(adapter.double().lora_B, std=0.1, generator=torch.Generator().manual_seed(seed))
    return found


def row(base, sets, lengths, seed, half=None):
    """A pass of the whole model, or of a half; ``lengths``: those of the sequences of each set of adapters."""
    flat = [length for each in lengths for length in each]
    hidden = torch.randn(sum(flat), base.hidden_size, generator=torch.Generator().manual_seed(seed)).double()
    positions = torch.cat([torch.arange(length) for length in flat])
    segments = [Segment(found, sum(each)) for found, each in zip(sets, lengths, strict=True)]
    given = {"inputs_embeds": hidden.requires_grad_()}
    return PassRows(base, half or base.server_half(0), segments, flat, positions, given)


def outputs_and_gradients(compute, rows):
    found = compute(rows)
    wanted = [rows.rows["inputs_embeds"], *(p for each in rows.segments for p in each.adapters.trained())]
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    return [found, *torch.autograd.grad((found * weights).sum(), wanted)]


def through(graphs):
    """Replayed where it can be, as parties do it."""

    def hidden_states(rows):
        found = graphs.replay(rows)
        return rows.compute() if found is None else found

    return hidden_states


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", PACKED_FAMILIES)
def test_a_replay_is_what_is_computed(family):
    """Of a row that was not there when its graph was captured: other texts, lengths and values of adapters."""
    base, graphs = base_of(family), GraphedPasses(Tape())
    last = base.n_layers - 1
    given = [[(7, 3), (5, 1, 2)], [(1, 20), (9, 32, 4)], [(2, 2), (2, 2, 2)], [(31, 1), (1, 1, 1)]]
    for seed, lengths in enumerate(given):
        sets = [adapters(base, 2, range(base.n_layers), seed), adapters(base, 3, [last], 10 + seed)]
        rows = row(base, sets, lengths, seed)
        assert_same(outputs_and_gradients(through(graphs), rows), outputs_and_gradients(PassRows.compute, rows))
    if family in ("mixtral", "qwen3_moe"):  # which expert a token has is looked up on the CPU
        assert graphs.replayed == 0 and graphs.why.startswith("it cannot be captured: aten._local_scalar_dense")
    else:
        assert graphs.record() == {"graphs": 1, "replayed": 3, "computed": 1}


@pytest.mark.parametrize(
    "family", ["llama", *slow("mistral", "bert", "roberta", "distilbert", "opt", "gpt_neox", "gemma3_text")]
)
@pytest.mark.filterwarnings("ignore")  # of torch, that a device of the tests has no optimised kernels
def test_nothing_is_copied_to_the_device_while_it_is_captured(family):
    """Of the client's half and of the server's: on a device that is not the CPU, whose tape refuses such copies."""
    with far_device() as device:
        base = as_base(tiny_model(family).to(device), family_of(CONFIGS[family]().model_type), family, "random")
        found = adapters(base, 2, range(base.n_layers), 1)
        for adapter in found.adapters.values():
            adapter.float().to(device)
        positions = torch.cat([torch.arange(7), torch.arange(3)]).to(device)
        hidden = torch.randn(10, base.hidden_size).to(device).requires_grad_()
        segments, lengths = [Segment(found, 10)], [7, 3]
        lower = PassRows(base, base.client_half(2), segments, lengths, positions, {"input_ids": positions + 5})
        upper = PassRows(base, base.server_half(2), segments, lengths, positions, {"inputs_embeds": hidden})
        for rows in (lower, upper):
            graphs = GraphedPasses(Tape())
            for _ in range(2):
                torch.testing.assert_close(through(graphs)(rows).cpu(), rows.compute().cpu(), rtol=1e-5, atol=1e-5)
            assert graphs.record() == {"graphs": 1, "replayed": 1, "computed": 1}


LENGTHS = st.lists(st.lists(st.integers(1, 70), min_size=1, max_size=3), min_size=1, max_size=3)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mistral", "gpt2"])
@settings(max_examples=25, deadline=None)
@given(passes=st.lists(LENGTHS, min_size=1, max_size=3), rank=st.integers(1, 4))
def test_whatever_the_lengths(family, passes, rank):
    """Longer than a sliding window, of several steps of padding, and with a block that nobody adapts."""
    base, graphs = base_of(family), GraphedPasses(Tape())
    for seed, lengths in enumerate([*passes, *passes]):
        sets = [adapters(base, rank + i, range(i % 2, base.n_layers), seed + i) for i, _ in enumerate(lengths)]
        rows = row(base, sets, lengths, seed)
        assert_same(outputs_and_gradients(through(graphs), rows), outputs_and_gradients(PassRows.compute, rows))
    shapes = {(-(-max(map(max, each)) // STEP), tuple(map(len, each))) for each in passes}
    replayed = 2 * len(passes) - len(shapes)
    assert graphs.record() == {"graphs": len(shapes), "replayed": replayed, "computed": len(shapes)}


@pytest.fixture
def bert():
    base = base_of("bert")
    return base, [adapters(base, 2, range(base.n_layers), 1)]


def test_a_pass_beside_one_that_is_under_way_is_computed(bert):
    """Its forward would overwrite what the backward of the other needs."""
    graphs, first, second = GraphedPasses(Tape()), row(*bert, [(7, 3)], 1), row(*bert, [(4, 5)], 2)
    for _ in range(3):  # the shape is met, a graph is captured, it is there
        one, other = through(graphs)(first), through(graphs)(second)
        for rows, found in ((second, other), (first, one)):
            expected = outputs_and_gradients(PassRows.compute, rows)
            assert_same(outputs_and_gradients(lambda _, found=found: found, rows), expected)
    assert graphs.record() == {"graphs": 1, "replayed": 3, "computed": 3, "why": "another pass was under way"}


def test_a_pass_that_was_given_up_keeps_no_other_waiting(bert):
    graphs, rows = GraphedPasses(Tape()), row(*bert, [(7, 3)], 1)
    for _ in range(3):
        graphs.replay(rows)  # a backward never comes
    assert graphs.record() == {"graphs": 1, "replayed": 2, "computed": 1}


def test_a_backward_whose_forward_was_overwritten_is_an_error():
    weight = torch.ones(3, requires_grad=True)
    square = Captured(lambda inputs: inputs[0] ** 2, [weight], Tape(), Lane())
    first, _second = square([weight]), square([2 * weight])
    with pytest.raises(RuntimeError, match="overwritten by another"):
        first.sum().backward()


def test_gradients_that_wait_for_their_step_stay_what_they_are():
    one, two = torch.ones(3, requires_grad=True), torch.full((3,), 5.0, requires_grad=True)
    square = Captured(lambda inputs: inputs[0] ** 2, [one], Tape(), Lane())
    for leaf in (one, two):
        square([leaf]).sum().backward()
    assert one.grad.tolist() == [2.0] * 3 and two.grad.tolist() == [10.0] * 3


class Deaf(Tape):
    """A recorder whose replays leave everything as it was captured."""

    def record(self, compute):
        return Recording(super().record(compute).outputs, lambda: None)


def test_a_replay_that_is_not_what_is_computed_is_given_up_and_said(bert, capsys):
    graphs, rows = GraphedPasses(Deaf()), row(*bert, [(7, 3)], 1)
    for _ in range(3):
        assert_same(outputs_and_gradients(through(graphs), rows), outputs_and_gradients(PassRows.compute, rows))
    why = "a replay was 1.0e+00 from what is computed"
    assert graphs.record() == {"graphs": 0, "replayed": 0, "computed": 3, "why": why} and not graphs.active
    assert capsys.readouterr().err == f"warning: engine.cuda_graphs: passes are computed from here on: {why}\n"


class Full(Tape):
    """A recorder with memory for one graph."""

    def record(self, compute):
        if self.recordings == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand what torch advises")
        return super().record(compute)


def test_without_memory_for_another_graph_those_that_are_there_are_replayed(bert, capsys):
    graphs = GraphedPasses(Full())
    for lengths in ([(7, 3)], [(7, 3)], [(7, 3, 2)], [(7, 3, 2)], [(7, 3, 2)], [(1, 2)]):
        rows = row(*bert, lengths, 1)
        assert_same(outputs_and_gradients(through(graphs), rows), outputs_and_gradients(PassRows.compute, rows))
    why = "there was no memory for another graph: CUDA out of memory. Tried to allocate 2 GiB"
    assert graphs.record() == {"graphs": 1, "replayed": 2, "computed": 4, "why": why}
    assert capsys.readouterr().err == f"warning: engine.cuda_graphs: no more than 1 graphs: {why}\n"


class Hidden(Tape):
    """A recorder that fails as torch's does: with what came of the error, not with the error."""

    def record(self, compute):
        try:
            raise RuntimeError("a value was asked for")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")


def test_the_cause_is_said_and_not_what_came_of_it(bert):
    graphs, rows = GraphedPasses(Hidden()), row(*bert, [(7, 3)], 1)
    graphs.replay(rows), graphs.replay(rows)
    assert graphs.why == "it cannot be captured: a value was asked for"


def test_what_a_graph_keeps_of_the_pass_that_it_was_captured_for(bert):
    """Nothing: neither its texts nor the values of its adapters, which may be those of a client that was put away."""
    graphs = GraphedPasses(Tape())
    base, _ = bert
    for _ in range(2):
        sets = [adapters(base, 2, range(base.n_layers), 1)]
        rows = row(base, sets, [(7, 3)], 1)
        outputs_and_gradients(through(graphs), rows)
    left = [weakref.ref(t) for t in (*rows.rows.values(), *sets[0].parameters())]
    del rows, sets
    gc.collect()
    assert len(left) > 1 and not any(each() is not None for each in left)


def test_a_value_that_is_needed_on_the_cpu_cannot_be_captured(bert, monkeypatch):
    base, sets = bert
    block = base.model.encoder.layer[1]
    forward = block.forward
    monkeypatch.setattr(block, "forward", lambda x, *args, **named: forward(x * float(x.sum() < 9e9), *args, **named))
    graphs, rows = GraphedPasses(Tape()), row(base, sets, [(7, 3)], 1)
    for _ in range(2):
        assert_same(outputs_and_gradients(through(graphs), rows), outputs_and_gradients(PassRows.compute, rows))
    assert "not permitted" in graphs.why and graphs.replayed == 0


def test_what_python_looked_up_when_it_was_captured_is_noticed(bert, monkeypatch):
    """A count of calls, here, which a replay has as it was."""
    base, sets = bert
    block, calls = base.model.encoder.layer[1], []
    forward = block.forward
    monkeypatch.setattr(
        block, "forward", lambda x, *args, **named: forward(x * (calls.append(x) or len(calls)), *args, **named)
    )
    graphs = GraphedPasses(Tape())
    for _ in range(2):
        graphs.replay(row(base, sets, [(7, 3)], 1))
    assert graphs.why.startswith("a replay was ") and graphs.replayed == 0


def test_no_more_graphs_than_there_may_be(bert, monkeypatch):
    monkeypatch.setattr(graphed_passes, "MOST", 1)
    graphs = GraphedPasses(Tape())
    for lengths in ([(7, 3)], [(7, 3)], [(7, 3, 2)], [(7, 3, 2)], [(1, 2)]):
        rows = row(*bert, lengths, 1)
        assert_same(outputs_and_gradients(through(graphs), rows), outputs_and_gradients(PassRows.compute, rows))
    why = "there are 1 graphs, and it was of no shape among them"
    assert graphs.record() == {"graphs": 1, "replayed": 2, "computed": 3, "why": why}


def test_nothing_is_replayed_where_no_gradient_is_asked_for(bert):
    graphs, rows = GraphedPasses(Tape()), row(*bert, [(7, 3)], 1)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(through(graphs)(rows), rows.compute())
    assert graphs.record() == {"graphs": 0, "replayed": 0, "computed": 2}


def test_a_cpu_has_no_cuda_graphs():
    assert graphed_passes.graphed_passes(torch.device("cpu")) is None
