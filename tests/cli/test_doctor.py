"""``atlas doctor`` says what an installation has and lacks, and fails only where no run could start."""

import json
from types import SimpleNamespace

import pytest

from atlas_cli.cli import _installation, main
from atlas_cli.models.files import resolve


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(resolve, "hub_reachable", lambda: False)
    return tmp_path


def facts_of(capsys, code=0):
    assert main(["doctor", "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_machine_that_is_fit(here, capsys):
    facts = facts_of(capsys)
    assert facts["problems"] == [] and facts["versions"]["torch"] and facts["devices"][0] == {"name": "cpu"}
    assert facts["places"]["cache"]["folder"] == str(here / "cache") and not (here / "cache").exists()
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert facts["versions"]["torch"] in out and "next: atlas train offline" in out


def test_what_is_missing_is_named_with_what_to_type(capsys, monkeypatch):
    real = _installation._version
    monkeypatch.setattr(_installation, "_version", lambda name: None if name == "ray" else real(name))
    monkeypatch.setattr(_installation, "requires", lambda name: ["torch>=2", 'ray>=2.59; extra == "ray"'])
    monkeypatch.setattr(_installation, "find_spec", lambda name: None)
    facts = facts_of(capsys)
    assert facts["extras"]["ray"]["missing"] == ["ray"] and facts["extras"]["data"]["missing"] == []
    assert any(text.startswith("pip is not in this environment") for text in facts["warnings"])
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "extra ray is not installed" in out and _installation.install_command("ray") in out


@pytest.mark.parametrize(("found", "said"), [("2.1", "2.1 is installed"), (None, "is not installed")])
def test_a_dependency_that_does_not_fit_prevents_runs(found, said, capsys, monkeypatch):
    monkeypatch.setattr(_installation, "_version", lambda name: found)
    monkeypatch.setattr(_installation, "requires", lambda name: ["torch>=2.10"])
    monkeypatch.setattr(_installation, "computing", None)  # which could not be imported
    facts = facts_of(capsys, code=1)
    assert facts["problems"] == [f'torch>=2.10 is needed, and {said}: pip install "torch>=2.10"']
    assert main(["doctor"]) == 1
    assert "next: mend the problems above" in capsys.readouterr().out


def test_slow_paths_and_those_that_fail_are_said(capsys, monkeypatch):
    monkeypatch.setattr("atlas_cli.planning.devices.devices.bfloat16_slowdown", lambda: 21.7)
    monkeypatch.setenv("CXX", "no-such-compiler")
    old = SimpleNamespace(name="Tesla T4", total_memory=16 * 2**30, major=7)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: old)
    slow, old_gpu, no_compiler = (text for text in facts_of(capsys)["warnings"] if "triton" not in text)
    assert "22 times slower than float32" in slow
    assert old_gpu.startswith("cuda:0 (Tesla T4) has no units for bfloat16")
    assert no_compiler.startswith("engine.compile on cpu needs a C++ compiler, and no-such-compiler is not on the PATH")


@pytest.mark.parametrize("place", ["runs", "cache"])
def test_a_folder_without_space_prevents_runs(place, capsys, monkeypatch):
    real = _installation.places

    def full():
        found = real()
        return {**found, place: {**found[place], "free": 1000}}

    monkeypatch.setattr(_installation, "places", full)
    (problem,) = facts_of(capsys, code=1)["problems"]
    assert problem.startswith("1,000 bytes are free for ")
