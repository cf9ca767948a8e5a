"""Passes that are computed side by side on several cores train and score what they do one after another."""

import random
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.rounds import assert_close, assert_same_metrics, run_round, trained
from support.slow import slow_but

from atlas_cli.engines import passes as grouping
from atlas_cli.engines.passes import even_passes
from atlas_cli.engines.shared_steps import SharedSteps
from atlas_cli.errors import NonFiniteError
from atlas_cli.federation.parties.evaluation import Evaluator
from atlas_cli.wire.ledger import Ledger
from atlas_cli.workers import Workers

SGD = {"name": "sgd", "lr": 0.1}
TRAINING = {"rounds": 3, "local_steps": 2, "client_optimizer": SGD, "server_optimizer": SGD}


@pytest.fixture(autouse=True)
def threads():
    """Sets the threads of torch, which are one again after the test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def at_once(monkeypatch):
    """How many passes of each step were computed at one time."""
    numbers, take = [], SharedSteps.take

    def note(steps, passes, *rest):
        numbers.append(min(steps.at_once, len(passes)))
        take(steps, passes, *rest)

    monkeypatch.setattr(SharedSteps, "take", note)
    return numbers


CASES = [
    ("bert", {}, {}),
    ("bert", {}, {"aggregation": {"method": "scaffold"}}),
    ("llama", {}, {}),
    ("gpt2", {"batch_size": 1}, {"aggregation": {"method": "fedex"}}),
    ("gpt2", {}, {"clients": {"a": {"split_layer": 1}}, "aggregation": {"method": "delta-svd"}}),
    ("bert", {"cohort": 0.7}, {}),
    ("bert", {"server_update": "sequential"}, {}),
    ("bert", {"labels": "client"}, {}),
    ("bert", {}, {"clients": {c: {"rank": {1: 3}} for c in "abc"}, "engine": {"prefix_cache": "1 MiB"}}),
    ("bert", {}, {"engine": {"fuse": "off"}}),
]
ALONE = [case for case in CASES if {"server_update", "labels"} & set(case[1]) or "prefix_cache" in str(case)]


@pytest.mark.parametrize(("family", "training", "changes"), slow_but(CASES, CASES[0]))
def test_a_run_on_two_threads_is_that_on_one(
    family, training, changes, make_federation, train_quietly, monkeypatch, threads
):
    """Adapters, heads, losses and scores to rounding; bytes, and which examples, exactly."""
    found = []
    for number in (1, 2):
        threads(number)
        federation = make_federation(family, **{**changes, "training": {**TRAINING, **training}})
        with monkeypatch.context() as patch:
            numbers = at_once(patch)
            recorder = train_quietly(federation)
        found.append((trained(federation), recorder, numbers))
    (one, theirs, before), (two, ours, numbers) = found
    alone = (family, training, changes) in ALONE
    assert set(before) <= {1} and (set(numbers) <= {1} if alone else 2 in numbers or not before)
    assert_close(two, one)
    assert_same_metrics(ours.metrics, theirs.metrics)
    for a, b in zip(ours.clients, theirs.clients, strict=True):
        assert all(a[key] == b[key] for key in ("simulated", "bytes_up", "bytes_down"))


def test_whichever_pass_is_computed_first_the_numbers_are_the_same(
    make_federation, train_quietly, monkeypatch, threads
):
    """Bit for bit, and so are the messages in the order in which the ledger has them."""
    threads(2)
    submit, found = Workers._submit, []
    for seed in (1, 2):
        late = random.Random(seed)

        def delayed(own, pool, compute, item, late=late):
            wait = late.random() / 50
            return submit(own, pool, lambda *args: (time.sleep(wait), compute(*args))[1], item)

        with monkeypatch.context() as patch:
            patch.setattr(Workers, "_submit", delayed)
            seen = []
            federation = make_federation("bert", training=TRAINING)
            scores = train_quietly(federation).metrics
            run_round(federation, list("abc"), 4, Ledger(seen.append), lambda *_: None)
        messages = [(message.client, message.kind, message.bytes) for message in seen]
        found.append((trained(federation), [row["test"] for row in scores], messages))
    (first, tests, messages), (second, *others) = found
    assert [tests, messages] == others and len(messages) == 3 * 2 * 2
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_seconds_of_passes_at_one_time_are_those_that_went_by(make_federation, threads):
    threads(2)
    federation = make_federation("bert", training=TRAINING)
    began = time.perf_counter()
    done = run_round(federation, list("abc"), 1, Ledger(), lambda *_: None)
    assert 0 < sum(work.seconds for work in done.values()) <= time.perf_counter() - began


def test_the_first_bad_pass_is_the_one_that_is_named(make_federation, monkeypatch, threads):
    threads(2)
    federation = make_federation("bert", training=TRAINING)
    found = [pass_.clients for pass_ in grouping.passes(federation, batches_of(federation), at_once=2)]
    failed = threading.Event()
    for number, clients in enumerate(found):
        for client in clients:
            spoil(federation.clients[client], monkeypatch, (lambda: failed.wait(20)) if number == 0 else failed.set)
    with pytest.raises(NonFiniteError, match=f"client {found[0][0]}, round 1, step 0"):
        run_round(federation, list("abc"), 1, Ledger(), lambda *_: None)


def batches_of(federation):
    from atlas_cli.federation.batches import batch_of

    federation.server.real_tokens = True
    return {client: batch_of(federation, client, 0) for client in federation.clients}


def spoil(party, monkeypatch, before):
    send = party.send
    monkeypatch.setattr(party, "send", lambda a, *rest: (before(), send(a * torch.nan, *rest))[1])


TOKENS = st.lists(st.integers(1, 400), min_size=1, max_size=20)


@given(tokens=TOKENS, most=st.sampled_from([128, 512, 1024]), at_once=st.integers(2, 4))
def test_passes_at_one_time_have_about_as_many_tokens_each(tokens, most, at_once):
    of = {str(number): count for number, count in enumerate(tokens)}
    found = even_passes(of, of, most, at_once)
    assert sorted((client for each in found for client in each), key=int) == list(of)
    assert all(each and each == sorted(each, key=int) for each in found)
    assert len(found) == len(of) or len(found) % at_once == 0
    filled = [sum(of[client] for client in each) for each in found]
    assert max(filled) - min(filled) <= max(tokens)
    assert max(filled) <= most + max(tokens)


@pytest.mark.parametrize("why", [None, "sent", "compiled", "longrope", "foreign"])
def test_scores_are_those_of_one_thread(why, make_federation, monkeypatch, threads):
    federation = make_federation("llama" if why == "longrope" else "bert")
    evaluator, numbers = federation.evaluator, []
    evaluator.batch_size = 1
    if why == "sent":
        evaluator.sent = lambda activations, mask, number, head: activations + number / 8
    if why == "compiled":
        evaluator.compiled = True
    if why == "longrope":
        monkeypatch.setattr("atlas_cli.federation.parties.evaluation.frequencies_change_at", lambda _: 10_000)
    if why == "foreign":
        monkeypatch.setattr(type(federation.server.heads["g"]), "__module__", "lab_heads")
    at_once = Evaluator._at_once
    monkeypatch.setattr(Evaluator, "_at_once", lambda *each: (numbers.append(at_once(*each)), numbers[-1])[1])
    group, model = federation.data["g"], dict(federation.scored_models("g")).popitem()[1]
    scores = []
    for number in (1, 2):
        threads(number)
        scores.append(evaluator(group.task, group.test, model))
    assert len(group.test) > 2
    assert scores[0] == (pytest.approx(scores[1]) if why else scores[1])  # bit for bit: a pass has one thread in both
    assert numbers == [1, 1 if why else 2]
