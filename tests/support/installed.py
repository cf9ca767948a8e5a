"""Packages of others that bring plug-ins, as an installer leaves them."""

import sys

import pytest

from atlas_cli import discovery

CACHES = (discovery.names, discovery._known, discovery._all_entry_points)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install(name, {module: text}, entry_points)``: a package as an installer leaves it, in a folder of its own."""

    def write(name, modules, entry_points):
        folder = tmp_path / name
        info = folder / f"{name.replace('-', '_')}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        for each in CACHES:
            each.cache_clear()

    known = set(sys.modules)
    yield write
    monkeypatch.undo()
    for name in set(sys.modules) - known:
        if name.startswith("lab_"):
            del sys.modules[name]
    for each in CACHES:
        each.cache_clear()
