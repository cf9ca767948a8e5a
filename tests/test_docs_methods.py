"""Lists of aggregation methods in the docs are those that the methods' own attributes give."""

import re
from pathlib import Path

import pytest

from atlas_cli import discovery
from atlas_cli.aggregation.contract import PARTS
from atlas_cli.aggregation.merge_optimizer import undefined_for
from atlas_cli.config.privacy_checks import CENTRAL_METHODS
from atlas_cli.planning.method import load_method
from atlas_cli.planning.method_checks import can_be_mixed

CONCEPTS = Path(__file__).parents[1] / "docs" / "concepts"
METHODS = {name: load_method(name)() for name in discovery.own_names("aggregation.methods")}


def takes_other_cuts(method):
    on_both_sides = method.CUTS_MAY_DIFFER and not method.CHANGES_BASE and {*method.SENT} == {*PARTS}
    return not method.SENT or on_both_sides


@pytest.mark.parametrize(
    ("page", "start", "end", "fits"),
    [
        ("merging.md", "can be mixed:", "The error ledger", can_be_mixed),
        ("merging.md", "| an optimizer other than", "| `flora`, `fedex` | refused", lambda m: undefined_for(m) is None),
        ("merging.md", "| `flora`, `fedex` | refused", "\n\n", lambda m: undefined_for(m) is not None),
        ("merging.md", "- It goes with", "It goes with every", lambda m: m.LINEAR is not None),
        ("merging.md", "with `flexlora` and", "among clients", lambda m: m.LINEAR == "equal ranks"),
        ("merging.md", "| value | computes", "\n\n", lambda m: True),
        ("merging.md", "| method | trained", "\n\n", lambda m: True),
        ("split.md", "whoever holds it:", "With others", takes_other_cuts),
        ("privacy.md", "so it takes", "\n", lambda m: m in [METHODS[name] for name in CENTRAL_METHODS]),
    ],
)
def test_a_list_has_the_methods_of_which_it_is_true(page, start, end, fits):
    text = (CONCEPTS / page).read_text(encoding="utf-8")
    after = text[text.index(start) :]
    if start.startswith("|"):  # the names of a table are in its first column
        rows = after[: after.index(end)].splitlines()
        named = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])}
    else:
        named = set(re.findall(r"`([a-z-]+)`", after[: after.index(end)]))
    assert named & METHODS.keys() == {name for name, method in METHODS.items() if fits(method)}
