"""Mechanisms on activations, labels, fingerprints, gradients and lengths, in federations that train."""

import math

import pytest
import torch
import torch.nn.functional as F
from support.rounds import exchange

from atlas_cli.clustering.fingerprints import fingerprint_round
from atlas_cli.data.collate import collate
from atlas_cli.experiment.split_check import require_verified
from atlas_cli.experiment.split_proof import verify_split
from atlas_cli.privacy.account.accounting import gaussian_epsilon, keep_probability
from atlas_cli.privacy.mechanisms.activations import ActivationNoise
from atlas_cli.privacy.mechanisms.labels import CorrectedTask
from atlas_cli.privacy.mechanisms.mask_gradients import PaddingCover
from atlas_cli.privacy.mechanisms.nopeek import distance_correlation, penalty
from atlas_cli.wire.ledger import Ledger


def held(federation):
    return [t.clone() for member in federation.aggregator.members.values() for t in member.exchanged().values()]


def equal(one, other):
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


def batch_of(federation, client="a"):
    features = federation.train_features(client)[:4]
    federation.server.begin_round({client: "g"}, 1, {client: federation.clients[client].cut})
    return collate(federation.data["g"].task, features, federation.pad, *federation.padding)


# activations


def test_activations_are_clipped_token_by_token_and_noise_has_its_deviation():
    hidden = torch.cat([torch.full((1, 50, 64), 3.0), torch.full((1, 50, 64), 0.01)])
    clipped = ActivationNoise(2.0, 0.0, 0, "a")(hidden)
    assert clipped[0].norm(dim=-1).allclose(torch.tensor(2.0)) and clipped[1].equal(hidden[1])
    noisy = ActivationNoise(2.0, 0.5, 0, "a")(hidden, 1, 2)
    assert float((noisy - clipped).std()) == pytest.approx(1.0, rel=0.05)
    others = [
        ActivationNoise(2.0, 0.5, 0, name)(hidden, *when) for name, *when in (("a", 1, 3), ("a", 2, 2), ("b", 1, 2))
    ]
    assert not any(other.equal(noisy) for other in others)
    assert ActivationNoise(2.0, 0.5, 0, "a")(hidden, 1, 2).equal(noisy)


def test_what_crosses_the_cut_is_noisy_and_gradients_pass_through_the_clipping(make_federation, train_quietly):
    plain = make_federation()
    clean = plain.clients["a"].forward(batch_of(plain).inputs(), 1, 0, None).activations
    federation = make_federation(privacy={"activations": {"clip": 1.0, "noise_multiplier": 0.1}})
    client = federation.clients["a"]
    sent = client.forward(batch_of(federation).inputs(), 1, 0, None).activations
    mask = batch_of(federation).attention_mask
    assert not mask.all()
    # what a block makes of padding depends on the words: only noise is sent for it
    expected = ActivationNoise(1.0, 0.1, 0, "a")(clean * mask.unsqueeze(-1), 1, 0)
    assert torch.allclose(sent, expected, atol=1e-6) and not torch.allclose(sent, clean, atol=0.1)
    client.apply_gradients(torch.ones_like(sent))
    require_verified(verify_split(federation))  # the proof is of the split without noise, and still holds
    spent = train_quietly(federation).metrics[-1]["epsilon"]["activations"]
    longest = max(len(f["input_ids"]) for c in "abc" for f in federation.train_features(c))
    uses = max(len({step // math.ceil(len(federation.train_features(c)) / 4) for step in range(2 * 3)}) for c in "abc")
    # the words of an example are replaced: each token moves by 2 clip, which is 4 times the squared norm
    assert spent == gaussian_epsilon(0.1, 4 * uses * longest, 1e-5) > 1000  # true, and useless


@pytest.mark.slow
def test_a_target_for_activations_is_met(make_federation, train_quietly):
    federation = make_federation(privacy={"activations": {"clip": 1.0, "epsilon": 50.0}}, training={"rounds": 1})
    assert 49 < train_quietly(federation).metrics[-1]["epsilon"]["activations"] <= 50


def test_words_of_an_example_are_also_learned_which_is_said(make_federation):
    privacy = {"activations": {"clip": 1.0, "noise_multiplier": 1.0}}
    assert any("other texts" in text for text in make_federation(privacy=privacy).protection.warnings())
    both = {"privacy": {**privacy, "examples": {"clip": 1.0, "noise_multiplier": 1.0}}, "server": {"rank": 0}}
    federation = make_federation(**both, training={"labels": "client"}, aggregation={"weights": "uniform"})
    assert not any("other texts" in text for text in federation.protection.warnings())


# labels


def test_labels_are_randomised_once_with_the_stated_chance(make_federation, train_quietly):
    def labels(federation, part="train"):
        return [f["labels"] for c in "abc" for f in getattr(federation.data["g"], part)[c]]

    true, found = make_federation(), make_federation(privacy={"labels": {"epsilon": 1.0}})
    again = make_federation(privacy={"labels": {"epsilon": 1.0}})
    kept = sum(a == b for a, b in zip(labels(true), labels(found), strict=True))
    n, keep = len(labels(true)), keep_probability(1.0, 2)
    assert abs(kept - n * keep) < 3 * math.sqrt(n * keep * (1 - keep)) and kept < n
    assert labels(found) == labels(again) and labels(found, "local_test") == labels(true, "local_test")
    assert found.data["g"].test == true.data["g"].test
    assert [line["epsilon"]["labels"] for line in train_quietly(found).metrics] == [0.0, 1.0, 1.0]


def test_the_corrected_loss_is_that_of_the_observed_label(make_federation):
    federation = make_federation(privacy={"labels": {"epsilon": 1.0}})
    task = federation.server.tasks["g"]
    assert isinstance(task, CorrectedTask) and not isinstance(federation.data["g"].task, CorrectedTask)
    logits, labels = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1])
    transition = torch.tensor([[task.keep, 1 - task.keep], [1 - task.keep, task.keep]])
    observed = (logits.softmax(-1) @ transition).log()
    loss, count = task.loss(logits, labels)
    assert loss.allclose(F.nll_loss(observed, labels)) and count == 5
    sure = CorrectedTask(task, 1000.0)
    assert sure.loss(logits, labels)[0].allclose(F.cross_entropy(logits, labels))
    uncorrected = make_federation(privacy={"labels": {"epsilon": 1.0, "correction": "none"}})
    assert not isinstance(uncorrected.server.tasks["g"], CorrectedTask)


# fingerprints


@pytest.mark.slow
def test_fingerprints_are_clipped_and_noisy(make_federation):
    clustering = {"k": 2, "batches": 2}

    def taken(**noise):
        federation = make_federation(clustering=clustering, **({"privacy": {"fingerprints": noise}} if noise else {}))
        return fingerprint_round(federation, Ledger(), 2, 64)

    plain, clipped = taken(), taken(clip=1e-3, noise_multiplier=0.0)
    noisy, other = taken(clip=1e-3, noise_multiplier=5.0), taken(clip=1e-3, noise_multiplier=5.0)
    for client, vector in plain.items():
        assert vector.norm() > 1e-3 and clipped[client].allclose(vector * 1e-3 / vector.norm())
        assert float((noisy[client] - clipped[client]).std()) == pytest.approx(5e-3, rel=0.3)
        assert noisy[client].equal(other[client])
    assert not noisy["a"].equal(noisy["b"])


@pytest.mark.slow
def test_epsilon_of_fingerprints_counts_clusterings(make_federation, train_quietly):
    noise = {"fingerprints": {"clip": 1.0, "noise_multiplier": 4.0}}
    federation = make_federation(clustering={"k": 2, "batches": 1, "every": 1}, privacy=noise, training={"rounds": 3})
    spent = [line["epsilon"]["fingerprints"] for line in train_quietly(federation).metrics]
    assert spent == [gaussian_epsilon(4.0, n, 1e-5) for n in (1, 1, 2, 3)]


# nopeek


def test_distance_correlation_of_copies_of_scaled_copies_and_of_independent_samples():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 7, generator=draw)
    assert distance_correlation(x, x) == pytest.approx(1.0) == float(distance_correlation(x, 3 * x + 1))
    independent = [float(distance_correlation(x, torch.randn(40, 30, generator=draw))) for _ in range(200)]
    mean, error = sum(independent) / 200, torch.tensor(independent).std() / math.sqrt(200)
    assert abs(mean) < 4 * error and min(independent) < 0 < max(independent)  # unbiased at any width


def test_distance_correlation_by_the_definition():
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(6, 2, generator=draw), torch.randn(6, 3, generator=draw)

    def centred(z):
        d = [[float((a - b).norm()) for b in z] for a in z]
        rows, n = [sum(row) for row in d], 6
        total = sum(rows) / ((n - 1) * (n - 2))
        return [
            [0.0 if i == j else d[i][j] - (rows[i] + rows[j]) / (n - 2) + total for j in range(n)] for i in range(n)
        ]

    def inner(a, b):
        return sum(p * q for s, t in zip(a, b, strict=True) for p, q in zip(s, t, strict=True)) / (6 * 3)

    a, b = centred(x), centred(y)
    assert float(distance_correlation(x, y)) == pytest.approx(
        inner(a, b) / math.sqrt(inner(a, a) * inner(b, b)), abs=1e-5
    )


@pytest.mark.slow
def test_nopeek_lowers_the_dependence_of_activations_on_tokens(make_federation, train_quietly):
    def dependence(**changes):
        rates = {"client_optimizer": {"lr": 0.03}, "rounds": 4, "local_steps": 4}
        federation = make_federation(training=rates, **changes)
        train_quietly(federation)
        client, batch = federation.clients["a"], batch_of(federation)
        with torch.no_grad():
            activations = client.compute_activations(batch.inputs())
            return float(penalty(client._embedded(batch.inputs()), activations, batch.attention_mask, 1.0))

    assert dependence(privacy={"nopeek": {"weight": 20.0}}) < dependence() - 0.05


# what observers of the wire see


@pytest.mark.slow
def test_padding_looks_like_other_tokens_and_training_is_the_same(make_federation, train_quietly):
    plain, covered = make_federation(), make_federation(privacy={"mask_gradients": True})
    batch = batch_of(covered)
    padding = ~batch.attention_mask.bool()
    assert padding.any()
    down, _ = exchange(covered.server, covered.clients["a"], batch, 1, 0, Ledger())
    bare, _ = exchange(plain.server, plain.clients["a"], batch_of(plain), 1, 0, Ledger())
    assert not bare.gradients[padding].any() and down.gradients[padding].all()
    real, noise = (down.gradients[m].square().mean().sqrt() for m in (~padding, padding))
    assert float(noise) == pytest.approx(float(real), rel=0.3)
    assert PaddingCover.uncover(down.gradients, batch.attention_mask).equal(bare.gradients)
    alone = {"engine": {"fuse": "off"}}  # clients whose padding is covered share no pass
    plain, covered = make_federation(**alone), make_federation(**alone, privacy={"mask_gradients": True})
    train_quietly(plain), train_quietly(covered)
    assert equal(held(plain), held(covered))


@pytest.mark.slow
def test_lengths_are_padded_to_a_multiple(make_federation, train_quietly):
    clients = {name: {"task_group": "g", "rank": {1: 2}} for name in "abc"}
    cached = {"clients": clients, "engine": {"prefix_cache": "1 MiB"}}
    padded = make_federation(privacy={"pad_lengths": 8}, **cached)
    shapes = set()
    for client in padded.clients.values():
        forward = client.forward

        def recorded(batch, *rest, forward=forward):
            message = forward(batch, *rest)
            shapes.add(message.activations.shape[1])
            return message

        client.forward = recorded
    train_quietly(padded)
    assert shapes <= {8, 16, 24, 32} and padded.prefix_cache.hits > 0
    capped = make_federation(privacy={"pad_lengths": 100})
    assert batch_of(capped).input_ids.shape[1] == 32  # training.max_length
