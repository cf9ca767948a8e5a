"""Clusters of made-up fingerprints, and sketches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli import TaskClusterer
from atlas_cli.clustering.fingerprints import sketch
from atlas_cli.errors import ConfigError


def made_up(groups, each, noise, seed=0, size=64):
    """Directions of ``groups`` tasks plus a large common one and noise; names tell the task."""
    draw = np.random.default_rng(seed)
    tasks, common = draw.normal(size=(groups, size)), 5 * draw.normal(size=size)
    return {
        f"t{g}-{i}": torch.tensor(common + tasks[g] + noise * draw.normal(size=size))
        for i in range(each)
        for g in range(groups)
    }


@pytest.mark.slow
@given(st.integers(2, 5), st.integers(2, 5), st.integers(0, 50))
@settings(max_examples=3, deadline=None)  # each compares with 200 shuffled assignments
def test_groups_are_found_with_their_number(groups, each, seed):
    fingerprints = made_up(groups, each, 0.2, seed)
    clusters = TaskClusterer().cluster(fingerprints)
    declared = {name: name.split("-")[0] for name in fingerprints}
    agreement = clusters.compare(declared)
    assert clusters.k == groups == max(clusters.silhouette_by_k, key=clusters.silhouette_by_k.get)
    assert agreement["ari"] == agreement["nmi"] == 1
    assert agreement["shuffled_ari"] < 1 or groups * each <= 6
    assert clusters.assignment["t0-0"] == 0  # numbered by first client


@pytest.mark.slow
def test_names_and_order_change_nothing_but_the_numbers():
    fingerprints = made_up(3, 4, 0.3)
    backwards = dict(reversed(fingerprints.items()))
    one, other = TaskClusterer().cluster(fingerprints), TaskClusterer().cluster(backwards)
    assert other.compare({name: str(n) for name, n in one.assignment.items()})["ari"] == 1
    rows = torch.stack(list(fingerprints.values()))
    assert list(TaskClusterer().cluster(rows.numpy()).assignment.values()) == list(one.assignment.values())


@pytest.mark.slow
def test_noise_is_one_cluster_and_chance_is_reported():
    draw = torch.Generator().manual_seed(0)
    noise = {f"c{i}": torch.randn(64, generator=draw) for i in range(20)}
    assert TaskClusterer(min_silhouette=0.2).cluster(noise).k == 1
    forced = TaskClusterer(k=4).cluster(noise)
    agreement = forced.compare({name: str(i % 4) for i, name in enumerate(noise)})
    assert forced.k == 4 and abs(agreement["ari"]) < 0.3 and -0.1 < agreement["shuffled_ari"] < 0.4


def test_what_all_share_is_taken_away():
    """Without centring every pair is alike; tasks of opposite sign are told apart with it."""
    common, task = 50 * torch.ones(64), torch.randn(64, generator=torch.Generator().manual_seed(1))
    clusters = TaskClusterer().cluster(
        {"a": common + task, "b": common + 1.1 * task, "c": common - task, "d": common - 1.1 * task}
    )
    assert list(clusters.assignment.values()) == [0, 0, 1, 1]
    assert clusters.similarity[0, 1] > 0.9 and clusters.similarity[0, 2] < -0.9


@pytest.mark.parametrize(
    ("fingerprints", "k", "says"),
    [
        ({"a": torch.ones(4), "b": torch.ones(4)}, 3, "3 clusters cannot be made of 2 clients"),
        ({"a": torch.ones(4), "b": torch.tensor([1.0, float("nan"), 0, 0])}, "auto", "fingerprint of client b"),
        ({"a": torch.ones(4), "b": torch.ones(5)}, "auto", "fingerprint of client b is not 4 finite numbers"),
        ({}, "auto", "no fingerprints"),
    ],
)
def test_what_cannot_be_clustered(fingerprints, k, says):
    with pytest.raises(ConfigError, match=says):
        TaskClusterer(k=k).cluster(fingerprints)


@pytest.mark.parametrize("n", [1, 2])
def test_few_clients(n):
    assert TaskClusterer().cluster({f"c{i}": torch.randn(8) for i in range(n)}).k == 1


def test_a_sketch_keeps_angles_and_is_seeded():
    draw = torch.Generator().manual_seed(0)
    first = {"q": torch.randn(40, 8, generator=draw), "v": torch.randn(30, 8, generator=draw)}
    second = {name: g + 0.5 * torch.randn(g.shape, generator=draw) for name, g in first.items()}
    exact = sum(float((first[n] * second[n]).sum()) for n in first)
    norms = [sum(float(g.square().sum()) for g in each.values()) ** 0.5 for each in (first, second)]
    guesses = [float(sketch(first, 64, seed) @ sketch(second, 64, seed)) for seed in range(200)]
    assert np.mean(guesses) == pytest.approx(exact, abs=3 * norms[0] * norms[1] / (64 * 200) ** 0.5)
    assert torch.equal(sketch(first, 64, 1), sketch(first, 64, 1))
    assert not torch.equal(sketch(first, 64, 1), sketch(first, 64, 2))
    assert torch.equal(sketch(first, 64, 1), sketch({n: first[n] for n in reversed(first)}, 64, 1)) or torch.allclose(
        sketch(first, 64, 1), sketch({n: first[n] for n in reversed(first)}, 64, 1), atol=1e-4
    )
