"""Folders called after names: none that a file system lacks, and no two that one takes for the same."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atlas_cli.storage.folder_names import folder_names

RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
# as names may be in a config, and as they might be if they could be anything
NAMES = st.one_of(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,6}", fullmatch=True),
    st.sampled_from(["con", "Con", "nul.txt", "aux", "COM1", "a.", "a", "A", "A.", "ß", "SS"]),
    st.text(max_size=8),
)


@given(st.lists(NAMES, max_size=8))
@example(["a:b", "a/b", "a\\b", "a-b", "a ", "a", "x" * 300, "X" * 300, "", ".."])
def test_any_names(names):
    folders = folder_names(names)
    assert list(folders) == list(dict.fromkeys(names))
    assert len({folder.casefold() for folder in folders.values()}) == len(folders)
    for folder in folders.values():
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._~-]*", folder) and len(folder) <= 100
        assert not folder.endswith(".") and not RESERVED.fullmatch(folder)


@pytest.mark.parametrize("name", ["phone-1", "A", "console", "com10", "g.cluster-1", "x" * 80])
def test_a_name_that_is_safe_and_alone_is_its_own_folder(name):
    assert folder_names([name, "other"])[name] == name


def test_a_folder_does_not_depend_on_the_order_of_names():
    assert folder_names(["a", "A", "b"]) == folder_names(["b", "A", "a"])
