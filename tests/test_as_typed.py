"""Commands that messages tell are those that the shell of the user's system takes."""

from __future__ import annotations

import os
import shlex

import pytest

from atlas_cli import printable
from atlas_cli.printable import as_typed


@pytest.mark.parametrize(
    ("word", "typed"),
    [
        (r"runs\20261128-093154_quickstart_0", r"runs\20261128-093154_quickstart_0"),
        (r"C:\Users\Jo\runs\a", r"C:\Users\Jo\runs\a"),
        (r"C:\my runs\a", r'"C:\my runs\a"'),
        ("C:\\my runs\\", r'"C:\my runs\\"'),
        ("model.name=a&b", '"model.name=a&b"'),  # cmd would run b
        ("seed=0,1", '"seed=0,1"'),  # PowerShell would give 0 and 1 apart
        ('say "so"', r'"say \"so\""'),
        ("", '""'),
    ],
)
def test_on_windows_words_are_in_double_quotes_where_they_have_to_be(
    word: str, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printable, "_WINDOWS", True)
    assert as_typed("atlas", word) == f"atlas {typed}"


@pytest.mark.skipif(os.name == "nt", reason="of shells of POSIX")
def test_elsewhere_a_shell_reads_the_same_words() -> None:
    words = ["atlas", "train", "my run.yaml", r"a\b", "it's", "seed=0,1", ""]
    assert shlex.split(as_typed(*words)) == words
