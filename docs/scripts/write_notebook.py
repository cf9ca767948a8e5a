"""Writes docs/guides/notebook.ipynb from the page of that name, so that there is one text: ``--check`` only compares.

python docs/scripts/write_notebook.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "guides" / "notebook.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")
CODE = re.compile(r"<!-- cell of the notebook -->\n```python\n(.*?)```\n", re.DOTALL)


def notebook(page: str) -> str:
    """A page as a notebook: marked blocks of code are cells, and all else is text."""
    cells = []
    for number, part in enumerate(CODE.split(page)):
        if text := part.strip():
            cells.append(_cell(len(cells), "code" if number % 2 else "markdown", text))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, kind: str, text: str) -> dict[str, object]:
    cell: dict[str, object] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    cell["source"] = text.splitlines(keepends=True)
    return {**cell, "execution_count": None, "outputs": []} if kind == "code" else cell


def main() -> int:
    """Write the notebook, or say whether it is what the page says."""
    made = notebook(PAGE.read_text(encoding="utf-8"))
    if "--check" in sys.argv[1:]:
        if NOTEBOOK.read_text(encoding="utf-8") != made:
            print("docs/guides/notebook.ipynb is not what notebook.md says: python docs/scripts/write_notebook.py")
            return 1
        return 0
    NOTEBOOK.write_text(made, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
