"""What the search for cycles of objects leaves out, and for how long."""

import gc
import weakref

import pytest

from atlas_cli import cycle_collection
from atlas_cli.cycle_collection import leaving_out_what_exists, without_collection


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


def ages(objects):
    """The generation of each of some objects."""
    found = [{id(each) for each in gc.get_objects(age)} for age in range(3)]
    return [next((age for age in range(3) if id(each) in found[age]), None) for each in objects]


@pytest.mark.parametrize(("most", "age"), [(100, 2), (10**9, 0)])
def test_many_objects_of_a_block_without_search_count_as_old_after_it(monkeypatch, most, age):
    monkeypatch.setattr(cycle_collection, "MANY", most)
    gc.collect()
    gc.disable()  # so that nothing ages by itself
    try:
        with without_collection():
            inner = [[] for _ in range(1000)]
        assert set(ages(inner)) == {0}  # nobody searched before: that stays so
        gc.enable()
        with without_collection():
            gc.collect(1)
            made = [[] for _ in range(1000)]
            assert not gc.isenabled() and set(ages(made)) == {0}
        assert gc.isenabled()
        gc.disable()
        assert set(ages(made)) <= {age, age + 1}
        assert (2 in ages(made)) == (age == 2)
    finally:
        gc.enable()
    assert gc.get_freeze_count() == 0


def test_a_block_without_search_ends_no_other_that_leaves_things_out(monkeypatch):
    monkeypatch.setattr(cycle_collection, "MANY", 10)
    for _ in leaving_out_what_exists("a"):
        before = gc.get_freeze_count()
        with without_collection():
            made = [[] for _ in range(1000)]
        assert gc.get_freeze_count() == before > 0 and len(made) == 1000
