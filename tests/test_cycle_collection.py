"""What the search for cycles of objects leaves out, and for how long."""

import gc
import weakref

import pytest

from atlas_cli.cycle_collection import leaving_out_what_exists


class Node:
    """An object in a cycle with itself."""

    def __init__(self):
        self.own = self


def gone(node):
    """Whether a search finds a node that nobody holds."""
    gc.collect()
    return node() is None


def test_what_was_there_is_left_out_and_what_is_made_is_found():
    kept, before = Node(), gc.get_freeze_count()
    unheld = weakref.ref(Node())
    old, seen = weakref.ref(kept), []
    for item in leaving_out_what_exists(range(2)):
        assert unheld() is None and gc.get_freeze_count() > before
        made, kept = weakref.ref(Node()), None
        seen.append((item, gone(made), gone(old)))
    assert seen == [(0, True, False), (1, True, False)] and gone(old)
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("ends_by", ["break", "error"])
def test_all_is_looked_at_again_however_the_items_end(ends_by):
    def go_through():
        for _ in leaving_out_what_exists("ab"):
            assert gc.get_freeze_count() > 0
            if ends_by == "break":
                break
            raise ValueError

    if ends_by == "error":
        with pytest.raises(ValueError):  # noqa: PT011  it is this test's own
            go_through()
    else:
        go_through()
    assert gc.get_freeze_count() == 0
