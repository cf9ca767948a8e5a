"""What a release says of itself: one version, a changelog in one form, and issue forms that can be read."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_version_is_that_of_pyproject():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## \[(\S+)\] - ", CHANGELOG, re.MULTILINE)
    assert newest is not None
    install = (ROOT / "docs" / "start" / "install.md").read_text(encoding="utf-8")
    wheels = re.findall(r"atlas_cli-(\S+)-py3-none-any\.whl", install)
    assert {citation["version"], newest[1], *wheels} == {PROJECT["version"]}


def test_the_changelog_keeps_its_form():
    versions = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - (\d{4}-\d\d-\d\d|Unreleased)", version) for version in versions)
    items = re.split(r"^(?=- |#)", CHANGELOG, flags=re.MULTILINE)
    assert [item for item in set(items) if item.startswith("-") and items.count(item) > 1] == []  # as merges leave them
    for version in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert len(kinds) == len(set(kinds))
        assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_dependency_has_its_tested_release():
    def normal(name):
        return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", name)[0]).lower()

    needed = [
        *PROJECT["dependencies"],
        *(name for extra in PROJECT["optional-dependencies"].values() for name in extra),
    ]
    pinned = {
        normal(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
    }
    assert {normal(name) for name in needed} - {PROJECT["name"]} <= pinned


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_an_issue_form_asks_for_what_helps(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    asked = [field["id"] for field in form["body"]]
    assert len(asked) == len(set(asked)) and all(field["attributes"]["label"] for field in form["body"])
