"""The reference is what the code says: pages that a script writes, and a site that leads to every page."""

import sys
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import TypeAdapter

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "scripts"))

import write_reference  # noqa: E402
from pages import config  # noqa: E402

KEYS = config.all_keys()


def test_pages_are_what_the_code_says():
    stale = [page.relative_to(ROOT).as_posix() for page in write_reference.stale(write_reference.pages())]
    assert not stale, "python docs/scripts/write_reference.py"


def test_sections_of_one_form_say_what_each_is_of():
    page = config.pages()["config/wire.md"]
    assert "## `wire.gradients`\n\nWhat comes back down for it. How one kind" in page


def test_a_key_without_a_description_is_found():
    assert len({key.path for key in KEYS}) == len(KEYS) > 150


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_every_key_of_a_config_has_a_meaning_and_an_example_that_is_valid(key):
    says = key.field.description or ""
    assert says[:1].isupper() and says.endswith("."), "a description is made of whole sentences"
    kind = Annotated[key.field.annotation, *key.field.metadata] if key.field.metadata else key.field.annotation
    TypeAdapter(kind).validate_python(config.example(key), strict=True)


def test_every_page_is_in_the_navigation_once():
    def paths(entry):
        for value in [entry] if isinstance(entry, str) else entry.values() if isinstance(entry, dict) else entry:
            yield from [value] if isinstance(value, str) else paths(value)

    listed = list(paths(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
