"""Write the tables of ``docs/reference/run-directory.md`` from the models of records in ``atlas_cli/runs/``.

    python docs/scripts/run_directory_tables.py            writes the tables
    python docs/scripts/run_directory_tables.py --check    exit code 1 where a table is not what the models say

A table stands between ``<!-- MODEL -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from atlas_cli.runs import memory_schemas, outcomes, schemas
from atlas_cli.runs.record import Record

PAGE = Path(__file__).resolve().parents[1] / "reference" / "run-directory.md"
MODELS = {**vars(schemas), **vars(memory_schemas), **vars(outcomes)}
TABLE = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def table(model: type[Record]) -> str:
    """The fields of a record as a table in Markdown."""
    rows = [f"| `{name}` | {field.description} |\n" for name, field in model.model_fields.items()]
    return "".join(["| field | meaning |\n|---|---|\n", *rows])


def written_anew(page: str) -> str:
    """The page with tables that are what the models say."""
    return TABLE.sub(lambda found: found[1] + table(MODELS[found[2]]) + found[3], page)


def main() -> int:
    """Exit code 1 where ``--check`` finds a table out of date."""
    page = PAGE.read_text(encoding="utf-8")
    new = written_anew(page)
    if "--check" in sys.argv[1:]:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
