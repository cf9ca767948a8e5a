"""``atlas ranks``: a table, a client a column; JSON; a resolved config that trains."""

import json
import re

import pytest

from atlas_cli.cli import main
from atlas_cli.config.load import load_config
from atlas_cli.experiment.allocation.auto_ranks import plan_ranks
from atlas_cli.printable import as_typed

DEVICES = {
    "small": {"memory": "1 GiB", "uplink": "1 Mbit/s"},
    "big": {"memory": "2 GiB", "uplink": "8 Mbit/s"},
}


@pytest.fixture
def auto_config(config_file):
    """Two clients ``a-1`` and ``a-2`` that have memory for 12 units of rank, ``b`` with plenty, ``c`` of rank 3."""

    def write(**changes):
        clients = {
            "a": {"task_group": "g", "device": "small", "rank": "auto", "count": 2},
            "b": {"task_group": "g", "device": "big", "rank": "auto", "count": 1},
            "c": {"task_group": "g", "rank": 3},
        }
        path = config_file(clients=clients, devices=DEVICES, allocation={"r_max": 16}, **changes)
        free = plan_ranks(load_config(path).config, "uniform").clients[0]
        unit = (64 * 16 + 4 * 4 * 32) * 2  # two layers of width 32, 4 x 32 tokens, two adapters a layer
        text = path.read_text(encoding="utf-8").replace("1 GiB", f"{free.memory.peak - 15 * unit} B")
        path.write_text(text, encoding="utf-8")
        return path

    return write


def shown(capsys, *args):
    assert main(["ranks", *map(str, args)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def cells(out, row):
    (line,) = [line for line in out.splitlines() if line.startswith(row)]
    return line.removeprefix(row).split()


def test_table_has_a_client_a_column(auto_config, capsys):
    out = shown(capsys, auto_config())
    assert cells(out, "layer") == ["a-1", "a-2", "b", "c"]
    layers = [[int(r) for r in cells(out, f"{layer} ")] for layer in (0, 1)]
    ranks = list(zip(*layers, strict=True))
    assert ranks[2:] == [(16, 16), (3, 3)]
    assert sum(ranks[0]) == sum(ranks[1]) == 12
    assert cells(out, "adapter parameters") == [f"{sum(r) * 2 * 64:,}" for r in ranks]
    assert cells(out, "device") == ["small", "small", "big", "-"]
    assert cells(out, "ranks from") == ["gradient", "gradient", "gradient", "config"]
    peak, memory = cells(out, "predicted peak, MiB"), cells(out, "memory, MiB")
    assert memory[2:] == ["2,048", "-"]
    assert float(peak[0]) <= float(memory[0])
    assert "a-1, a-2: limited by memory" in out
    assert "b: every layer has the largest rank allowed" in out
    assert "uplink budget" not in out


@pytest.mark.slow
def test_many_clients_take_several_tables(auto_config, capsys):
    out = shown(capsys, auto_config(), "clients.a.count=7", "--uniform")
    assert out.count("Rank by layer") == 2
    assert re.search(r"^layer +a-7 +b +c$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.slow
def test_json_says_what_limits(auto_config, capsys):
    found = json.loads(shown(capsys, auto_config(), "--json", "allocation.uplink_seconds=100"))
    assert found["importance"] == "gradient"
    first, _, third, fixed = found["clients"]
    assert first["memory"]["peak"] <= first["memory_budget"]
    assert first["stopped_at"]["resource"] == "memory"
    assert first["uplink_bytes_a_round"] <= first["uplink_budget"] == 12_500_000
    assert set(first["importance"]) == set(first["ranks"]) == {"0", "1"}
    assert third["stopped_at"] is None
    assert (fixed["ranks"], fixed["device"], fixed["importance"]) == ({"0": 3, "1": 3}, None, None)


@pytest.mark.slow
def test_controls_spend_the_same(auto_config, capsys):
    path = auto_config()
    ways = {way: json.loads(shown(capsys, path, "--json", *way.split())) for way in ("", "--uniform", "--random")}
    assert [found["importance"] for found in ways.values()] == ["gradient", "uniform", "random"]
    spent = {way: [c["adapter_parameters"] for c in found["clients"]] for way, found in ways.items()}
    assert spent[""] == spent["--uniform"] == spent["--random"]
    assert ways["--uniform"]["clients"][0]["ranks"] == {"0": 6, "1": 6}
    assert [c["ranks"] for c in ways["--random"]["clients"]] != [c["ranks"] for c in ways["--uniform"]["clients"]]
    assert shown(capsys, path, "--json", "--random") == json.dumps(ways["--random"], indent=2) + "\n"


@pytest.mark.slow
def test_written_config_is_the_resolved_one(auto_config, tmp_path, capsys):
    path, new = auto_config(), tmp_path / "my ranks.yaml"
    out = shown(capsys, path, "seed=3", "--write", new)
    assert f"next: atlas train {as_typed(str(new))}\n" in out
    written = load_config(new).config
    assert written == plan_ranks(load_config(path, ["seed=3"]).config).config
    assert list(written.clients) == ["a-1", "a-2", "b", "c"]
    # explicit ranks are shown as they are
    again = shown(capsys, new)
    assert cells(again, "ranks from") == ["config"] * 4
    assert [cells(again, f"{layer} ") for layer in (0, 1)] == [cells(out, f"{layer} ") for layer in (0, 1)]


def failure(capsys, *args):
    code = main(["ranks", *map(str, args)])
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return code, captured.err


def test_nothing_is_overwritten(auto_config, tmp_path, capsys):
    path, new = auto_config(), tmp_path / "mine.yaml"
    new.write_text("mine", encoding="utf-8")
    code, text = failure(capsys, path, "--write", new)
    assert code == 2 and f"{new}: exists already and is not overwritten" in text
    assert new.read_text(encoding="utf-8") == "mine"
    code, text = failure(capsys, path, "--uniform", "--write", tmp_path / "no" / "folder.yaml")
    assert code == 1 and f"there is no folder {tmp_path / 'no'}; make it, or choose another --write" in text


@pytest.mark.slow
def test_a_client_that_does_not_fit_is_one_line_with_its_place(auto_config, capsys):
    path = auto_config()
    text = path.read_text(encoding="utf-8")
    line = 1 + next(i for i, each in enumerate(text.splitlines()) if each.strip() == "rank: auto")
    code, said = failure(capsys, path, "devices.small.memory=10 KiB")
    assert code == 2
    assert said.startswith(f"error: {path}:{line}: clients.a.rank: client a-1 needs ")
    assert "has 0.010 MiB" in said


def test_controls_exclude_each_other(auto_config, capsys):
    code, text = failure(capsys, auto_config(), "--uniform", "--random")
    assert code == 2 and "exclude each other" in text
