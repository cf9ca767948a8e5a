"""What a method returns is held against its contract while it merges."""

import pytest
import torch
from support.merging import factors

from atlas_cli.aggregation.checks import require_merge, require_parts
from atlas_cli.aggregation.contract import Context, Factors, Merge
from atlas_cli.aggregation.methods.fedex import Method as Fedex
from atlas_cli.aggregation.methods.zero_pad import Method as ZeroPad
from atlas_cli.errors import AtlasError, ConfigError

CURRENT = {"q": factors(4, 6, 5, 0), "v": factors(2, 6, 6, 1)}
WRONG = {
    "returned a dict, expected a Merge": dict(CURRENT),
    "the merged adapter lacks v": Merge({"q": CURRENT["q"]}),
    "the merged adapter has another layer, x": Merge({**CURRENT, "x": CURRENT["q"]}),
    r"q is no Factors\(A, B\)": Merge({**CURRENT, "q": torch.zeros(4, 6)}),
    r"q has A \(3, 6\) and B \(5, 3\), expected A \(4, 6\) and B \(5, 4\)": Merge(
        {**CURRENT, "q": Factors(CURRENT["q"].A[:3], CURRENT["q"].B[:, :3])}
    ),
    "a change of the base, and Method.CHANGES_BASE is False": Merge(dict(CURRENT), base={"q": CURRENT["q"]}),
}


@pytest.mark.parametrize("says", WRONG)
def test_a_merge_that_breaks_the_contract_is_named(says):
    with pytest.raises(AtlasError, match=rf"zero_pad\.py: Method\.aggregate, g, round 3: .*{says}"):
        require_merge(ZeroPad(), WRONG[says], CURRENT, Context("g", 3))


def test_a_merge_that_keeps_it_is_handed_on():
    plain, with_base = Merge(dict(CURRENT)), Merge(dict(CURRENT), base={"q": CURRENT["q"]})
    assert require_merge(ZeroPad(), plain, CURRENT, Context("g", 3)) is plain
    assert require_merge(Fedex(), with_base, CURRENT, Context("g", 3)) is with_base


@pytest.mark.parametrize("name", ["SENT", "DELIVERED", "TRAINED"])
def test_parts_that_no_adapter_has_are_refused(name):
    broken = type("Method", (ZeroPad,), {name: ("A", "C"), "__module__": ZeroPad.__module__})
    with pytest.raises(ConfigError, match=rf"Method\.{name} has 'C'; expected of A, B"):
        require_parts(broken)
