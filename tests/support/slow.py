"""Cases of one behaviour: a few that differ most are in the default run, the others are for CI."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def slow(*cases: object) -> list:
    """Each case as a parameter that is marked slow; a tuple is one value for each name."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases]


def slow_but(cases: Iterable[object], *kept: object) -> list:
    """All cases as parameters, in their order; those that are not kept are marked slow."""
    cases = list(cases)
    assert all(case in cases for case in kept), "a case that is kept is not among the cases"
    return [case if case in kept else slow(case)[0] for case in cases]
