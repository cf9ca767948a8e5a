"""The notebook of the docs is what its page says, and its cells run, one after the other in an empty folder."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "scripts"))

import write_notebook  # noqa: E402


def cells(kind):
    whole = json.loads(write_notebook.NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in whole["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_what_its_page_says():
    page = write_notebook.PAGE.read_text(encoding="utf-8")
    assert write_notebook.NOTEBOOK.read_text(encoding="utf-8") == write_notebook.notebook(page), (
        "python docs/scripts/write_notebook.py"
    )
    assert len(cells("code")) == 5 and cells("markdown")[0].startswith("# From a notebook")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # a notebook goes on after them
def test_its_cells_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_OFFLINE", "PIP_NO_INDEX"):
        monkeypatch.setenv(name, "1")
    exec("\n".join(cells("code")), {"__name__": "__main__"})
    assert "AutoModelForTokenClassification" in capsys.readouterr().out
    assert (tmp_path / "entities-model" / "README.md").is_file()
