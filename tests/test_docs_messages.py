"""The page on messages quotes what atlas says: each entry names the command that says it."""

import re
import shlex
from pathlib import Path

import pytest

from atlas_cli.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^### `(.+)`\n<!-- said by: (.+) -->$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the example that needs no network, and a finished run of it."""
    folder = tmp_path_factory.mktemp("messages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["init", "--example", "offline"]) == 0
        assert main(["train", "offline.yaml", "training.rounds=1", "training.local_steps=1"]) == 0
        (run,) = Path("runs").iterdir()
        run.rename("RUN")
    return folder


def test_the_page_has_what_a_newcomer_meets():
    assert len(ENTRIES) >= 30
    assert PAGE.count("<!-- said by:") == len(ENTRIES), "an entry is a heading and the command under it"


@pytest.mark.slow
@pytest.mark.parametrize(("message", "said_by"), ENTRIES)
def test_a_message_is_said_as_the_page_quotes_it(message, said_by, folder, monkeypatch, capsys):
    """`·` stands for a space within a word of the command, `…` for what differs in the message."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main([word.replace("·", " ") for word in shlex.split(said_by)]) in (2, 3, 4, 5)
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    quoted = ".*".join(re.escape(part.strip()) for part in message.split("…"))
    assert re.search(quoted, error), error
