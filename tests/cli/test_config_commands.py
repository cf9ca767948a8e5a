from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atlas_cli import cli
from atlas_cli.cli import main
from atlas_cli.config.load import load_config
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError, NonFiniteError, ResourceError, TooFewClientsError

ROOT = Path(cli.__file__).parents[2]
RUN = "import sys; from atlas_cli.cli import main; sys.exit(main())"
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "pandas", "numpy")


@pytest.fixture
def config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "minilm", "--out", "x.yaml"]) == 0
    capsys.readouterr()
    return tmp_path / "x.yaml"


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    """What it computes, from the start of its process on: a clock on the wall would time other programs as well."""
    code = (
        "import sys, time\nfrom atlas_cli.cli import main\ncode = main(['--help'])\n"
        f"print([m for m in {HEAVY} if m in sys.modules], time.process_time(), file=sys.stderr)\nsys.exit(code)"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        imported, _, spent = done.stderr.rpartition(" ")
        assert imported == "[]"
        seconds.append(float(spent))
    assert "config" in done.stdout and "init" in done.stdout and "--debug" in done.stdout
    assert min(seconds) < 0.5


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("atlas ")


USAGE = {
    "cofnig": "atlas: no such command cofnig, did you mean config; see atlas --help",
    "config shwo x.yaml": "atlas config: no such command shwo, did you mean show; see atlas config --help",
    "config show": "atlas config show: FILE is missing; see atlas config show --help",
    "init m --uot x": "atlas init: no such option --uot, did you mean --out; see atlas init --help",
    "train --rounds 3": "atlas train: no such option --rounds; a key of the config is set without --, as in"
    " training.rounds=3; see atlas train --help",
    "init --clients": "atlas init: option --clients requires an argument; see atlas init --help",
    "models --json=3": "atlas models: option --json does not take a value; see atlas models --help",
    "models extra --json": "atlas models: got unexpected extra argument (extra); see atlas models --help",
    "split-point m --rank 0": "atlas split-point: --rank: expected a whole number from 1, got 0;"
    " see atlas split-point --help",
    "split-point m --max-leakage=x": "atlas split-point: --max-leakage: expected a number from 0 to 1, got x;"
    " see atlas split-point --help",
    "split-point m --dtype half": "atlas split-point: --dtype: expected one of float32, bfloat16, got half;"
    " see atlas split-point --help",
}


@pytest.mark.parametrize("typed", USAGE)
def test_usage_errors_are_one_line_in_the_form_of_others(typed: str, capsys) -> None:
    assert main(typed.split()) == 2
    assert capsys.readouterr() == ("", f"error: {USAGE[typed]}\n")


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (
            ConfigError("bad [red]value[/red]", key="a.b", where="x.yaml:3"),
            2,
            "error: x.yaml:3: a.b: bad [red]value[/red]\n",
        ),
        (ConfigError("one\nx.yaml:4: two", where="x.yaml:3"), 2, "error: x.yaml:3: one\nerror: x.yaml:4: two\n"),
        (ResourceError("no such model " + "m" * 200), 3, "error: no such model " + "m" * 200 + "\n"),
        (NonFiniteError("loss"), 4, "error: loss\n"),
        (TooFewClientsError("none left"), 5, "error: none left\n"),
        (ValueError("a\n  b"), 1, "error: unexpected ValueError: a b; run again with --debug for the traceback\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_errors_are_one_line_and_an_exit_code(raised: BaseException, code: int, line: str, monkeypatch, capsys) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise raised

    monkeypatch.setattr(cli, "app", fail)
    assert main([]) == code
    assert capsys.readouterr().err == line


def test_debug_gives_the_traceback_wherever_it_stands(tmp_path, monkeypatch) -> None:
    for argv in (["--debug", "config", "show", "no.yaml"], ["config", "show", "no.yaml", "--debug"]):
        with pytest.raises(ConfigError):
            main(argv)


def test_interrupt_inside_a_command_exits_130(config, monkeypatch, capsys) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("atlas_cli.config.load.load_config", interrupt)
    assert main(["config", "show", "x.yaml"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUN, "config", "schema"], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    finally:
        os.close(writer)
    assert (done.stderr, done.returncode) == ("", 1)


def test_a_program_without_standard_output_is_no_error(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it after `>&-`
    assert main(["--version"]) == 0


def test_show_prints_a_config_that_loads_to_the_same(config, capsys) -> None:
    assert main(["config", "show", "x.yaml", "training.rounds=3", "clients.phone-1.rank={0: 2}"]) == 0
    out, err = capsys.readouterr()
    assert "  rounds: 3  # override\n" in out and "    rank: 16  # x.yaml:3" in out and err == ""
    (config.parent / "y.yaml").write_text(out, encoding="utf-8")
    assert (
        load_config("y.yaml").config
        == load_config("x.yaml", ["training.rounds=3", "clients.phone-1.rank={0: 2}"]).config
    )


def test_a_bad_config_is_one_line_on_stderr(config, capsys) -> None:
    assert main(["config", "show", "x.yaml", "training.ronds=3"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "error: command line: training.ronds is not a known key; did you mean rounds? (atlas config schema lists "
        "all keys)\n"
    )
    assert main(["config", "show", "z.yaml"]) == 2
    assert capsys.readouterr().err == "error: z.yaml: no such file\n"
    assert main(["config", "show", "xx.yaml"]) == 2
    assert capsys.readouterr().err == "error: xx.yaml: no such file; did you mean x.yaml?\n"


def test_schema_lists_every_key_and_the_plugins(capsys) -> None:
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == set(ExperimentConfig.model_fields)
    assert schema["additionalProperties"] is False
    assert "sequence-classification" in schema["$defs"]["TaskGroupConfig"]["properties"]["task"]["enum"]
    assert "zero-pad" in schema["$defs"]["AggregationConfig"]["properties"]["method"]["enum"]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_init_writes_once_and_never_over_a_file(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "gpt2", "--out", "new.yaml"]) == 0
    assert capsys.readouterr().out == "wrote new.yaml; next: atlas validate new.yaml\n"
    assert load_config("new.yaml").config.model.name == "gpt2"
    before = (tmp_path / "new.yaml").read_bytes()
    assert main(["init", "minilm", "--out", "new.yaml"]) == 2
    assert capsys.readouterr().err == "error: new.yaml: exists already and is not overwritten; choose another --out\n"
    assert (tmp_path / "new.yaml").read_bytes() == before
    assert main(["init", "minilm", "--out", "nowhere/new.yaml"]) == 1
    err = capsys.readouterr().err
    assert err == f"error: {Path('nowhere/new.yaml')}: there is no folder nowhere; make it, or choose another --out\n"


def test_init_prints_what_it_would_write(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "minilm"]) == 0
    printed = capsys.readouterr().out
    assert main(["init", "minilm", "--out", "experiment.yaml"]) == 0
    assert (tmp_path / "experiment.yaml").read_text(encoding="utf-8") == printed
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_training_does_not_import_what_only_some_runs_or_the_report_need() -> None:
    later = ("sklearn", "scipy", "matplotlib", "pandas", "pyarrow", "datasets", "peft")
    code = f"import sys\nimport atlas_cli.experiment.session\nprint([m for m in {later} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"
