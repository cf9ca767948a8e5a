"""Figures of the benchmark, on toy clients of ranks 4, 8, 16 and 64 that are trained for three rounds."""

import importlib.util
from pathlib import Path

import pytest
from support.merging import merge, of_factors
from support.slow import slow

from atlas_cli.aggregation.contract import Factors, Update

FILE = Path(__file__).parents[2] / "benchmarks" / "aggregation.py"
SPEC = importlib.util.spec_from_file_location("aggregation_benchmark", FILE)
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.fixture(scope="module")
def errors():
    """By method, errors of rounds 1 and 3."""
    found = {}
    for name in of_factors():
        made = [benchmark.errors(name, *parts[:3]) for parts in benchmark.rounds(name, 128)]
        found[name] = made[0], made[-1]
    return found


@pytest.mark.parametrize("name", ["flora", "ffa", *slow("fedex")])
def test_exact_methods_are_exact_to_rounding(errors, name):
    assert all(error["merged"] < 1e-6 for error in errors[name])  # factors are in float32


@pytest.mark.parametrize("name", ["fedex", "flora", "ffa"])
def test_exact_methods_lose_1e_minus_14_in_double_precision(name):
    for before, updates, _, _ in benchmark.rounds(name, 128):
        wide = {path: Factors(f.A.double(), f.B.double()) for path, f in before.items()}
        sent = [
            Update(u.client, u.weight, {path: Factors(f.A.double(), f.B.double()) for path, f in u.adapters.items()})
            for u in updates
        ]
        assert benchmark.errors(name, wide, sent, merge(name, wide, sent))["merged"] <= 1e-14


@pytest.mark.parametrize("name", ["fedex", "flora"])
def test_methods_that_change_the_base_are_exact_at_every_rank(errors, name):
    assert all(error["delivered"] < 1e-6 for error in errors[name])


def test_means_of_factors_lose_tens_of_percent_and_less_later(errors):
    for name in ("zero-pad", "hetlora"):
        first, last = errors[name]
        assert 0.2 < last["merged"] < first["merged"] < 0.8
        assert first["cross_term"] == pytest.approx(first["merged"], rel=1e-9)


def test_a_truncated_svd_loses_least_of_those_that_leave_the_base(errors):
    assert all(error["merged"] < 0.01 for error in errors["flexlora"])
    for error in (errors[name][0] for name in ("zero-pad", "hetlora", "lora-fair", "ffa")):
        assert errors["flexlora"][0]["delivered"] < error["delivered"]
    assert errors["lora-fair"][0]["merged"] < 0.5 * errors["zero-pad"][0]["merged"]


def test_delta_svd_is_flexlora_in_the_first_round_and_keeps_more_later(errors):
    first, last = errors["delta-svd"]
    assert first["merged"] == pytest.approx(errors["flexlora"][0]["merged"], rel=1e-6)
    assert last["merged"] == pytest.approx(last["cross_term"], rel=0.1)  # what low-rank clients were not sent


def test_methods_without_a_group_adapter_have_no_error(errors):
    assert errors["none"] == (None, None) and errors["fedsa"] == (None, None)


@pytest.mark.slow
def test_bytes_are_those_of_the_parts_that_travel():
    d, ranks = 128, sum(benchmark.RANKS)
    for name, up, down in (
        ("zero-pad", 8 * d * ranks, 8 * d * ranks),
        ("ffa", 4 * d * ranks, 4 * d * ranks),
        ("none", 0, 0),
        ("flora", 8 * d * ranks, 4 * 8 * d * ranks),  # the stack of all goes to each of four
    ):
        merge = next(iter(benchmark.rounds(name, d, 1)))[2]
        assert benchmark.traffic(name, d, merge) == (up, down)
