"""Passes that are replayed as CUDA graphs train what passes that are computed train: here on a tape, which does with
operators what a graph does with kernels. ``federation/test_cuda.py`` has graphs themselves."""

import pytest
from support.rounds import assert_close, assert_same_metrics, trained
from support.slow import slow_but
from support.tape import Tape

from atlas_cli.engines import passes as grouping
from atlas_cli.engines.passes import passes, without_graphs
from atlas_cli.federation.batches import batch_of
from atlas_cli.models.cuda_graphs.graphed_passes import GraphedPasses

SGD = {"name": "sgd", "lr": 0.1}  # Adam makes a rounding error of a gradient near 0 as large as a step
TRAINING = {"rounds": 4, "local_steps": 3, "client_optimizer": SGD, "server_optimizer": SGD}
RANKS = {"clients": {"a": {"rank": {0: 4, 1: 1}}, "b": {"rank": {1: 3}}, "c": {"rank": {0: 2}}}}
UPPER = {"clients": {c: {"rank": {1: 3}} for c in "abc"}, "engine": {"prefix_cache": "1 MiB"}}
FAMILIES = ("gpt2", "llama", "mistral", "bert", "roberta", "distilbert")
ALL, NO_SERVER = ("clients", "server"), ("clients",)  # whose passes are replayed
FEW = [("gpt2", {}, RANKS, ALL), ("bert", {}, {"aggregation": {"method": "scaffold"}}, ALL)]
CASES = [
    *FEW,
    *((family, {}, {}, ALL) for family in FAMILIES),
    ("bert", {"labels": "client"}, {}, NO_SERVER),
    ("gpt2", {"server_update": "sequential"}, {}, NO_SERVER),
    ("llama", {"cohort": 0.7}, {}, ALL),
    ("bert", {}, {"clients": {"a": {"split_layer": 1}}, "aggregation": {"method": "delta-svd"}}, ALL),
    ("bert", {}, {"aggregation": {"method": "fedex"}}, ALL),
    ("bert", {}, {"aggregation": {"method": "ffa"}}, ALL),
    ("llama", {}, {"aggregation": {"method": "ravan", "options": {"heads": 2, "size": 4}}}, ALL),
    ("gpt2", {}, {"server": {"rank": 0}}, ALL),
    ("bert", {}, UPPER, ALL),
    ("bert", {}, {"clients": {c: {"embedding": "rows"} for c in "abc"}}, ALL),
    ("llama", {}, {"clients": {"a": {"embedding": "rows"}}}, ALL),
]


def graphed(federation):
    """The federation with passes that are replayed, on a tape each."""
    federation.graphs, federation.server.graphs = GraphedPasses(Tape()), GraphedPasses(Tape())
    return federation


@pytest.mark.parametrize(("family", "training", "changes", "whose"), slow_but(CASES, *FEW))
def test_a_run_whose_passes_are_replayed_is_the_run_without(
    family, training, changes, whose, make_federation, train_quietly
):
    """Adapters, heads, losses, scores and bytes; the first round is measured, and its clients computed one by one."""
    given = {**changes, "training": {**TRAINING, **training}}
    plain, ours = make_federation(family, **given), graphed(make_federation(family, **given))
    expected, found = train_quietly(plain), train_quietly(ours)
    assert_close(trained(ours), trained(plain))
    assert_same_metrics(found.metrics, expected.metrics)
    figures = {"clients": ours.graphs.record(), "server": ours.server.graphs.record()}
    assert {who for who, each in figures.items() if each["replayed"]} == set(whose), figures
    for each in figures.values():  # the first pass of a shape is computed
        assert each["graphs"] <= each["computed"] and "why" not in each, figures


def test_clients_share_the_same_passes_in_each_step(make_federation, monkeypatch):
    """However long their texts are, so that a graph serves the next step, too."""
    federation = graphed(make_federation())
    federation.server.real_tokens = True
    longest = federation.config.training.max_length
    rows = len(batch_of(federation, "a", 0).input_ids)
    monkeypatch.setattr(grouping, "GRAPHED_PLACES", 2 * rows * longest)
    for step in range(4):
        batches = {client: batch_of(federation, client, step) for client in federation.clients}
        assert list(passes(federation, batches)) == [(["a", "b"], True), (["c"], True)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, []),
        ({"lora": {"dropout": 0.1}}, ["engine.cuda_graphs does nothing: with lora.dropout each client is computed"]),
        (
            {"clients": {"b": {"checkpointing": True}}},
            ["engine.cuda_graphs does nothing for b: checkpointing, and learns, keep a client by itself"],
        ),
        (
            {"training": {"server_update": "sequential"}},
            [
                "engine.cuda_graphs does nothing at the server, which takes one client after another with "
                "training.server_update: sequential"
            ],
        ),
        (
            {"training": {"labels": "client"}},
            [
                "engine.cuda_graphs does nothing at the server, which takes one client after another with "
                "training.labels: client"
            ],
        ),
    ],
)
def test_a_run_says_what_is_never_replayed(changes, says, make_federation):
    asked = make_federation(**changes, engine={"cuda_graphs": True})
    assert without_graphs(asked) == ["engine.cuda_graphs does nothing: cpu has no CUDA graphs"]
    found = without_graphs(graphed(asked))
    assert len(found) == len(says) and all(a.startswith(b) for a, b in zip(found, says, strict=True))
    assert without_graphs(graphed(make_federation(**changes))) == []
