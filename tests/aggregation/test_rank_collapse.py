"""``benchmarks/rank_collapse.py``: what idle rounds cost a mean over all clients, in closed form."""

import pytest
import torch
from rank_collapse import RANKS, beyond, closed_form, collapse, spectrum


def test_a_mean_over_all_clients_collapses_by_the_share_of_clients_that_have_a_component():
    singular_values = closed_form(RANKS, 4)
    for number, values in enumerate(singular_values):
        for j, share in ((0, 1), (2, 1 / 2), (7, 1 / 4), (15, 1 / 8)):
            assert float(values[j]) == pytest.approx(float(spectrum(16)[j]) * share**number)
    energies = [beyond(values, 2) for values in singular_values]
    assert [round(energy, 3) for energy in energies[:4]] == [0.814, 0.258, 0.059, 0.014]
    assert round(energies[4], 4) == 0.0035
    torch.testing.assert_close(collapse("flexlora", RANKS, 4), energies)


@pytest.mark.parametrize("ranks", [(4, 4, 8), (1, 2, 3, 12), (3, 3)])
def test_the_closed_form_holds_at_any_ranks(ranks):
    least, values = min(ranks), closed_form(ranks, 3)
    torch.testing.assert_close(collapse("flexlora", ranks, 3), [beyond(each, least) for each in values])
    twice = [beyond(each.square() / spectrum(max(ranks)), least) for each in values]  # A and B are averaged apart
    torch.testing.assert_close(collapse("zero-pad", ranks, 3), twice)


@pytest.mark.parametrize("name", ["delta-svd", "raflora", "rolora", "fedsvd", "fed-plora"])
def test_a_merge_of_changes_keeps_all_of_it(name):
    torch.testing.assert_close(collapse(name, RANKS, 4), [beyond(spectrum(16), 2)] * 5)
