"""Mixing across task groups against dense matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.merging import factors

from atlas_cli.aggregation.contract import Factors, delta
from atlas_cli.aggregation.mixing import laplacian_matrix, mix, similarity, softmax_matrix


def groups_of(ranks, seed, paths=("q", "v")):
    return {f"g{i}": {p: factors(r, 10, 8, seed + 9 * i + k) for k, p in enumerate(paths)} for i, r in enumerate(ranks)}


def flat(adapters):
    return torch.cat([delta(f).flatten() for f in adapters.values()])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_similarity_is_the_cosine_of_dense_updates(ranks, seed):
    groups = groups_of(ranks, seed)
    dense = torch.stack([flat(g) for g in groups.values()])
    dense = dense / dense.norm(dim=1, keepdim=True)
    torch.testing.assert_close(similarity(groups), dense @ dense.T)


@given(st.integers(1, 5), st.floats(0, 1), st.floats(0.05, 5), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_matrices_are_averages(n, strength, temperature, seed):
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(n, 3, generator=draw, dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    cosines, sizes = directions @ directions.T, torch.rand(n, generator=draw, dtype=torch.float64) + 0.1
    for matrix in (softmax_matrix(cosines, sizes, strength, temperature), laplacian_matrix(cosines, strength)):
        torch.testing.assert_close(matrix.sum(1), torch.ones(n, dtype=torch.float64))
        assert (matrix >= -1e-12).all()
        if strength == 0 or n == 1:
            torch.testing.assert_close(matrix, torch.eye(n, dtype=torch.float64))


def test_sizes_and_likeness_weigh():
    cosines = torch.tensor([[1.0, 0.9, -0.9], [0.9, 1.0, -0.9], [-0.9, -0.9, 1.0]], dtype=torch.float64)
    even = softmax_matrix(cosines, torch.ones(3).double(), 1.0, 0.5)
    assert even[0, 1] > even[0, 2] and torch.allclose(even[0, 1] / even[0, 2], torch.exp(torch.tensor(3.6)).double())
    larger = softmax_matrix(cosines, torch.tensor([1.0, 3.0, 1.0]).double(), 1.0, 0.5)
    torch.testing.assert_close(larger[0, 1] / larger[0, 0], 3 * even[0, 1] / even[0, 0])
    assert laplacian_matrix(cosines, 0.5)[0, 2] == 0  # opposed groups are no neighbours


@pytest.mark.slow
@given(st.lists(st.integers(2, 4), min_size=2, max_size=3), st.integers(0, 99), st.floats(0.1, 1))
@settings(max_examples=30, deadline=None)
def test_mixing_is_that_of_dense_updates_cut_to_the_groups_rank(ranks, seed, strength):
    groups = groups_of(ranks, seed)
    matrix = softmax_matrix(similarity(groups), torch.ones(len(ranks)).double(), strength, 1.0)
    mixed = mix(groups, matrix)
    for i, name in enumerate(groups):
        for path, before in groups[name].items():
            dense = sum(matrix[i, j] * delta(groups[other][path]) for j, other in enumerate(groups))
            U, S, Vh = torch.linalg.svd(dense, full_matrices=False)
            r = before.rank
            torch.testing.assert_close(delta(mixed[name][path]), (U[:, :r] * S[:r]) @ Vh[:r], atol=1e-8, rtol=1e-6)


def test_no_strength_changes_nothing_and_layers_of_one_group_stay():
    groups = groups_of([3, 2], 0)
    groups["g1"]["own"] = factors(2, 10, 8, 77)
    same = mix(groups, torch.eye(2, dtype=torch.float64))
    half = mix(groups, torch.full((2, 2), 0.5, dtype=torch.float64))
    for name, adapters in groups.items():
        for path, before in adapters.items():
            assert same[name][path] is before
            assert (half[name][path] is before) == (path == "own")


def test_a_group_that_has_learned_nothing_yet_is_like_no_other():
    groups = groups_of([2, 2], 0)
    groups["g0"] = {p: Factors(f.A, torch.zeros_like(f.B)) for p, f in groups["g0"].items()}
    assert similarity(groups)[0, 1] == pytest.approx(0)
