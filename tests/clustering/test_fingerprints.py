"""Fingerprints are sketched gradients of the unsplit model, and leave the federation alone."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.by_hand import hidden

from atlas_cli.clustering.fingerprints import RANK, draw, fingerprint_round, sketch
from atlas_cli.data.collate import collate
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.federation.parties.trainables import build_head
from atlas_cli.models.adapters.lora import build_adapters
from atlas_cli.models.block_paths import layer_of
from atlas_cli.seeding import numpy_generator
from atlas_cli.wire.ledger import Ledger


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["server", "client"])
def test_is_the_sketched_gradient_of_the_unsplit_model(labels, make_config):
    made = build(make_config("bert", training={"labels": labels}, clients={"b": {"split_layer": 3}}))
    before, ledger = RunState(made).capture()[0], Ledger()
    found = fingerprint_round(made, ledger, batches=2)
    after = RunState(made).capture()[0]
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert ledger.mismatches() == []
    assert ledger.entries["b", "fingerprint", "up"].payload_bytes == 4 * 64

    task, base = made.data["g"].task, made.base
    head = build_head(base, task, 0, "fingerprint", "cpu")
    for client, cut in (("a", 2), ("b", 3)):
        ranks = {path: RANK for path in made.plan.features if layer_of(path, base.family) < cut}
        adapters = build_adapters(base.model, ranks, alpha=16.0, seed=0)
        upper = copy.deepcopy(made.server.groups["g"].adapters)
        features = made.train_features(client)
        sums = {}
        for rows in draw(features, 2, 4, numpy_generator(0, "fingerprint", client, 0), one_class=True):
            batch = collate(task, rows, made.pad)
            out = hidden(base.model, batch, adapters, upper) if cut > 2 else hidden(base.model, batch, adapters)
            loss, _ = task.loss(head(out, batch.attention_mask), batch.labels)
            shared = {p: a.lora_B for p, a in adapters.adapters.items() if layer_of(p, base.family) < 2}
            for path, g in zip(shared, torch.autograd.grad(loss, list(shared.values())), strict=True):
                sums[path] = sums.get(path, 0) + g / 2
        torch.testing.assert_close(found[client], sketch(sums, 64, 0), atol=1e-5, rtol=1e-3)


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 4), st.integers(1, 5))
def test_classes_take_turns_and_no_example_comes_twice(labels, batches, size):
    features = [{"labels": label, "number": i} for i, label in enumerate(labels)]
    drawn = [f for rows in draw(features, batches, size, numpy_generator(0, "x"), one_class=True) for f in rows]
    assert len({f["number"] for f in drawn}) == len(drawn) == min(len(labels), batches * size)
    counts = [sum(f["labels"] == label for f in drawn) for label in range(3)]
    for label, count in enumerate(counts):  # behind another class only where it has run out
        assert count >= max(counts) - 1 or count == labels.count(label)


def test_one_example_is_too_few(make_config):
    made = build(make_config())
    made.data["g"].train["b"] = made.data["g"].train["b"][:1]
    with pytest.raises(ConfigError, match="client b has 1 example; a fingerprint needs 2"):
        fingerprint_round(made, Ledger())
