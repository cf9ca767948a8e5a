"""A file that a command makes for its user."""

import pytest

from atlas_cli.errors import ConfigError, OutputError
from atlas_cli.storage.new_file import require_free, write_new


def test_what_has_come_meanwhile_stays_as_it_is(tmp_path):
    path = tmp_path / "new.yaml"
    require_free(path, "another --write")
    path.write_text("mine", encoding="utf-8")
    for refused in (lambda: require_free(path, "another --out"), lambda: write_new(path, "text", "another --out")):
        with pytest.raises(ConfigError, match=r"new\.yaml: exists already .*; choose another --out"):
            refused()
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_new_file_has_the_text_with_bare_line_ends(tmp_path):
    write_new(tmp_path / "new.yaml", "a: 1\nb: \u00e9\n", "another")
    assert (tmp_path / "new.yaml").read_bytes() == b"a: 1\nb: \xc3\xa9\n"


def test_a_folder_that_is_not_there_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "no" / "new.yaml"
    with pytest.raises(OutputError, match=r"there is no folder .*no; make it, or choose another --write"):
        require_free(path, "another --write")
    with pytest.raises(OutputError, match=r"cannot be written: .*; choose another --write"):
        write_new(path, "text", "another --write")
