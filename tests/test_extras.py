"""The command that a message names for what is missing works where the user is."""

import tomllib
from pathlib import Path

from atlas_cli import extras

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_in_the_checkout_and_elsewhere_and_from_a_wheel(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert extras.install_command("ray") == 'pip install -c constraints.txt -e ".[ray]"'
    monkeypatch.chdir(tmp_path)
    assert extras.install_command("ray") == f'pip install -c "{ROOT / "constraints.txt"}" -e "{ROOT}[ray]"'
    monkeypatch.setattr(extras, "PACKAGE_FOLDER", tmp_path / "site-packages" / "atlas_cli")
    assert extras.install_command("ray") == 'pip install "atlas-cli[ray]"'


def test_every_extra_that_the_package_asks_for_is_described():
    assert set(extras.EXTRAS) == set(PROJECT["optional-dependencies"]) - {"dev", "docs"}
    assert PROJECT["name"] == extras.DISTRIBUTION
