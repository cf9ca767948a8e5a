"""Every file in configs/: what its header tells the reader to type is right, and it runs."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from atlas_cli.cli import main
from atlas_cli.config.frontier import load_frontier
from atlas_cli.config.load import load_config
from atlas_cli.packages import models as packaged

ROOT = Path(__file__).parents[1]
LEARN = ("quickstart", "gemma3-instruct")
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
# tests/data/test_glue_source.py runs those of GLUE, and those that learn below run as well
ONE_STEP = [path for path in CONFIGS if not path.stem.startswith("glue-") and path.stem not in LEARN]
SMALL = {"limit": 40, "test_limit": 4}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)  # as the headers are written


def commands(path):
    """Lines of the header that call atlas, as lists of words."""
    lines = re.findall(r"^#\s+(atlas .*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header(path):
    first = commands(path)[0]
    assert first == ["atlas", "train", f"configs/{path.name}"]
    assert load_config(path).config.name == path.stem
    for command in commands(path):
        if command[1] == "train":
            load_config(command[2], command[3:])


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "frontiers").glob("*.yaml")), ids=lambda path: path.stem)
def test_frontiers(path):
    first, second = commands(path)
    assert first == ["atlas", "audit", "--frontier", f"configs/frontiers/{path.name}"]
    found = load_frontier(Path(path.stem), second[4:])  # by its name, too
    assert len(found.planned) == len(found.settings) * 3 and found.config.is_file()


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.packaged] if path.stem != "offline" else []) for path in ONE_STEP],
    ids=lambda path: path.stem,
)
def test_runs(path, tmp_path, capsys):
    config = load_config(path).config
    changes = [
        f"task_groups.{name}.data.{key}={min(value, getattr(group.data, key) or value)}"
        for name, group in config.task_groups.items()
        for key, value in SMALL.items()
    ]
    if (model := packaged.MODELS.get(config.model.name)) is not None and model.restricted:
        packaged.model_path(model.name, accept_licence=True)
    one_step = ["training.rounds=1", "training.local_steps=1", "training.batch_size=2", "threads=1"]
    one_step += [f"training.max_length={min(64, config.training.max_length)}", f"output.dir={tmp_path}"]
    assert main(["train", str(path), *changes, *one_step]) == 0
    (run,) = tmp_path.iterdir()
    check_run(config, run)
    if path.stem == "llama-smollm2":  # a real instruct model writes through its split
        asked = ["--group", "helper", "--prompt", "Name a river in France.", "--max-new-tokens", "12"]
        capsys.readouterr()
        assert main(["generate", str(run), *asked, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["tokens"] > 0


def check_run(config, run):
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["status"] == "finished" and manifest["base_unchanged"]
    assert all(check["passed"] for check in manifest["verify"].values())
    assert {c.name for c in (run / "adapters" / "clients").iterdir()} == {c.name for c in config.expanded_clients()}
    assert "<svg" in (run / "report.html").read_text(encoding="utf-8")


# what quickstart.yaml says of its end, and less after three rounds; both above always answering with the largest class,
# in each group (0.23, 0.87, 0.54 and 0.63 of the test parts)
LEARNT = {8: {"questions": 0.8, "spam": 0.95, "movies": 0.75, "products": 0.8}}
LEARNT[3] = {"questions": 0.5, "spam": 0.9, "movies": 0.62, "products": 0.7}


@pytest.mark.packaged
def test_quickstart_learns(tmp_path):
    """The run that ATLAS_QUICKSTART_RUN names, where one was trained a moment ago; else one of three rounds."""
    if named := os.environ.get("ATLAS_QUICKSTART_RUN"):
        run, rounds = Path(named).absolute(), 8
        config = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["config"]
        assert config == load_config(ROOT / "configs/quickstart.yaml").config.model_dump(mode="json")
    else:
        few = ["training.rounds=3", "evaluation.every=3", f"output.dir={tmp_path}"]
        assert main(["train", "configs/quickstart.yaml", *few]) == 0
        (run,), rounds = tmp_path.iterdir(), 3
    check_run(load_config(ROOT / "configs/quickstart.yaml").config, run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    before, after = ({m["task_group"]: m["test"]["accuracy"] for m in lines if m["round"] == n} for n in (0, rounds))
    assert all(after[group] > max(least, before[group]) for group, least in LEARNT[rounds].items())


@pytest.mark.packaged
def test_gemma_learns_to_answer(tmp_path):
    packaged.model_path("gemma-3-270m", accept_licence=True)
    short = [
        "training.rounds=1",
        "training.local_steps=2",
        "training.batch_size=2",
        "task_groups.dialog.data.test_limit=8",
    ]
    short += ["partition.local_test=0", "threads=1"]  # logits of 262,144 words take most of the time
    assert main(["train", "configs/gemma3-instruct.yaml", *short, f"output.dir={tmp_path}"]) == 0
    (run,) = tmp_path.iterdir()
    check_run(load_config(ROOT / "configs/gemma3-instruct.yaml").config, run)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    before, after = (json.loads(line)["test"]["perplexity"] for line in lines)
    assert after < 0.9 * before
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["licences"]["gemma-3-270m"].startswith("Gemma Terms of Use")


@pytest.mark.packaged
def test_budgets_of_compare_ranks_are_those_that_its_results_name(capsys):
    assert main(["ranks", "configs/compare-ranks.yaml", "--uniform", "--json"]) == 0
    equal = {name: set(ranks.values()) for name, ranks in _ranks(capsys.readouterr().out)}
    assert equal == {f"{kind}-{i}": {rank} for kind, rank in (("tight", 2), ("roomy", 8)) for i in (1, 2, 3)}


def _ranks(printed):
    return [(client["client"], client["ranks"]) for client in json.loads(printed)["clients"]]
