import torch
from support.merging import aggregate, method

from atlas_cli.aggregation.contract import Factors, Update


def factors(rank):
    return Factors(torch.randn(rank, 6), torch.randn(5, rank))


def test_the_group_adapter_stays_as_it_is():
    current = {"q": factors(3)}
    after = aggregate("none", current, [Update("c", 1.0, {"q": factors(2)})])
    none = method("none")
    assert not none.SENT and not none.GROUP_ADAPTER
    assert after["q"] is current["q"]


def test_all_that_a_client_is_ever_given_is_the_start_cut_to_its_rank():
    current = {"q": factors(3), "v": factors(3)}
    given = method("none").deliver(current, {"q": factors(2)}, {"q": 2})
    assert list(given) == ["q"]
    assert torch.equal(given["q"].A, current["q"].A[:2]) and torch.equal(given["q"].B, current["q"].B[:, :2])
