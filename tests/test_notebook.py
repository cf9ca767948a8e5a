"""The notebook of the docs is what its page says, and its cells run, one after the other in an empty folder."""

import json
import os
import subprocess
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
def test_its_cells_run(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(cells("code"))], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "AutoModelForTokenClassification" in done.stdout and (tmp_path / "entities-model" / "README.md").is_file()
