"""README and docs say what is so: examples run, and no field, kind or choice is left out."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.tiny_models import VOCABULARY, word_tokenizer
from transformers import AutoModelForCausalLM, Olmo3Config

from atlas_cli import discovery
from atlas_cli.cli import main
from atlas_cli.runs.memory_schemas import HolderMemory, ReferenceMemory
from atlas_cli.runs.schemas import KINDS, SCHEMAS

ROOT = Path(__file__).parents[1]
PART = re.compile(r"^`(atlas_cli/\S+\.py)`\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROJECT = re.compile(r"^`lab-atlas/pyproject\.toml`\n\n```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TESTS_OF_AUTHORS = re.compile(r"runs on its own parts:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXTENDING = (ROOT / "docs" / "guides" / "extend.md").read_text(encoding="utf-8")


SUITES = """
from atlas_cli.aggregation.methods.server_momentum import Method
from atlas_cli.tasks import topics
from atlas_cli.testing import methods

TestMomentum = methods.conformance(Method)
ROWS = [{"text": "good film", "label": ["art"]}, {"text": "a city", "label": ["place"]}, {"text": "the", "label": []}]
TestTopics = conformance(topics.Task, [*ROWS, {"text": "bad film city", "label": ["art", "place"]}], ["art", "place"])
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A folder with a copy of the package to which every file of docs/guides/extend.md was added."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "atlas_cli", folder / "atlas_cli", ignore=shutil.ignore_patterns("__pycache__"))
    parts = PART.findall(EXTENDING)
    assert len(parts) == 10
    for path, text in parts:
        assert not (folder / path).exists()
        (folder / path).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder in whose ``site`` the package of docs/guides/extend.md is installed, with all parts but the command."""
    folder = tmp_path_factory.mktemp("installed")
    package = folder / "lab-atlas" / "lab_atlas"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Parts for atlas."""\n', encoding="utf-8")
    (package.parent / "pyproject.toml").write_text(*PROJECT.findall(EXTENDING), encoding="utf-8")
    for path, text in PART.findall(EXTENDING):
        if not path.startswith("atlas_cli/cli/"):
            (package / Path(path).name).write_text(text, encoding="utf-8")
    offline = ("--no-index", "--no-build-isolation", "--no-deps", "--quiet", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", folder / "site", package.parent]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


def python(folder, code, *arguments, path=()):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, path or [folder])),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def atlas(folder, *arguments, path=()):
    code = "import sys; from atlas_cli.cli import main; sys.exit(main(sys.argv[1:]))"
    return python(folder, code, *arguments, path=path)


def experiment_in(folder):
    """Data and a model of the example's family, and a config that uses every part."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = Olmo3Config(vocab_size=VOCABULARY, max_position_embeddings=64, pad_token_id=0, eos_token_id=4, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    word_tokenizer(causal=True).save_pretrained(folder / "model")
    things = ["film", "movie", "game", "phone", "city", "river"]
    for i, tone in enumerate(["bad", "fine", "great"] * 12):
        (folder / "reviews" / tone).mkdir(parents=True, exist_ok=True)
        text = f"the {things[i // 3 % 6]} is {'very ' * (i // 18)}{tone}"
        (folder / "reviews" / tone / f"{i}.txt").write_text(text, encoding="utf-8")
    experiment = {
        "name": "extended",
        "device": "cpu",
        "threads": 1,
        "model": {"name": "model"},
        "task_groups": {
            "g": {"task": "rating", "classes": ["bad", "fine", "great"], "data": {"folders": "reviews"}},
            "hours": {"task": "sequence-classification", "data": {"corpus": "opening-hours"}},
        },
        "clients": {
            "a": {"task_group": "g", "rank": 4},
            "b": {"task_group": "g", "rank": 2, "count": 2},
            "c": {"task_group": "hours", "rank": 2},
        },
        "training": {"rounds": 1, "local_steps": 2, "batch_size": 4, "max_length": 32},
        "aggregation": {"method": "factor-median"},
        "privacy": {"token_dropout": {"rate": 0.2}},
        "audit": {"record": {"rounds": [1]}},
    }
    (folder / "x.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")


def check_run(run):
    """The run of ``experiment_in`` used every part; gives its manifest."""
    before, _, after, _ = (
        json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    )
    assert 0 <= before["test"]["mean_distance"] <= 2
    assert after["aggregation_error"] > 0
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["verify"]["g"]["passed"] and manifest["base_unchanged"]
    assert manifest["data"]["hours"]["origin"] == "corpus opening-hours"
    assert manifest["privacy"]["mechanisms"]["token-dropout"]["rate"] == 0.2
    return manifest


@pytest.mark.slow
def test_parts_of_extending(extended):
    experiment_in(extended)
    code = """
from pathlib import Path
from atlas_cli.cli import main
assert main(["train", "x.yaml", "--quiet"]) == 0
assert main(["status", *map(str, Path("runs").iterdir())]) == 0
"""
    done = python(extended, code)
    assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr
    (run,) = (extended / "runs").iterdir()
    assert "packages" not in check_run(run)["inputs"]


@pytest.mark.slow
def test_a_method_with_state_and_a_task_with_a_head_train_in_bfloat16(install, tmp_path, model_folder, capsys):
    texts = {Path(path).stem: text for path, text in PART.findall(EXTENDING)}
    modules = {f"lab_{name}": texts[name] for name in ("server_momentum", "topics")}
    entries = "[atlas.aggregation]\nserver-momentum = lab_server_momentum\n[atlas.tasks]\ntopics = lab_topics\n"
    install("lab-atlas", modules, entries)
    words = [("good", ["art"]), ("city", ["place"]), ("fine", [])] * 6
    rows = [{"text": f"the {word} film {i}", "label": label} for i, (word, label) in enumerate(words)]
    rows += [{"text": f"a good city {i}", "label": ["art", "place"]} for i in range(2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = {
        "name": "topics",
        "device": "cpu",
        "model": {"name": model_folder("bert"), "dtype": "bfloat16", "split_layer": 2},
        "task_groups": {"g": {"task": "topics", "classes": ["art", "place"], "data": {"files": "rows.jsonl"}}},
        "clients": {"a": {"task_group": "g", "rank": 4}, "b": {"task_group": "g", "rank": 2}},
        "training": {"rounds": 2, "local_steps": 2, "batch_size": 4, "max_length": 16},
        "aggregation": {"method": "server-momentum", "options": {"momentum": 0.5}},
        "output": {"dir": str(tmp_path / "runs")},
    }
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["train", str(tmp_path / "x.yaml")]) == 0, capsys.readouterr().err
    (run,) = (tmp_path / "runs").iterdir()
    last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert 0 <= last["test"]["micro_f1"] <= 1
    assert (
        json.loads((run / "manifest.json").read_text(encoding="utf-8"))["inputs"]["packages"]["lab-atlas"]["version"]
        == "1.5"
    )


TRAIN_AND_AUDIT = """
from pathlib import Path
from atlas_cli.cli import main
assert main(["train", "x.yaml", "--quiet"]) == 0
(run,) = Path("runs").iterdir()
RUN = str(run)
assert main(["audit", RUN, "--attack", "mean-activation", "--json"]) == 0
"""


@pytest.mark.slow
def test_parts_of_a_package_of_ones_own(installed):
    experiment_in(installed)
    path = [ROOT, installed / "site"]
    (tests,) = TESTS_OF_AUTHORS.findall(EXTENDING)
    done = python(installed, f"{TRAIN_AND_AUDIT}\n{tests}", path=path)
    assert done.returncode == 0, done.stderr
    (run,) = (installed / "runs").iterdir()
    inputs = check_run(run)["inputs"]
    assert inputs["packages"]["lab-atlas"] == {
        "version": "1.0",
        "plugins": [
            "aggregation.methods: factor-median",
            "tasks: rating",
            "models.families: olmo3",
            "data.sources: folders",
            "data.corpora: opening-hours",
            "privacy.mechanisms: token-dropout",
        ],
    }
    assert {"lab_atlas/factor_median.py", "lab_atlas/token_dropout.py"} <= inputs["code"].keys()
    (figure,) = json.loads(done.stdout)["attacks"]
    assert figure["attack"] == "mean-activation" and figure["examples"] >= 20

    changed = installed / "site" / "lab_atlas" / "token_dropout.py"
    changed.write_text(changed.read_text(encoding="utf-8").replace(">=", ">"), encoding="utf-8")
    refused = atlas(installed, "audit", run, path=path)
    assert refused.returncode == 3 and "code that computes has changed: lab_atlas/token_dropout.py" in refused.stderr


def test_the_tables_of_a_run_directory_are_what_its_records_hold():
    script = ROOT / "docs" / "scripts" / "run_directory_tables.py"
    tables = runpy.run_path(str(script))
    page = (ROOT / "docs" / "reference" / "run-directory.md").read_text(encoding="utf-8")
    assert tables["written_anew"](page) == page, "python docs/scripts/run_directory_tables.py writes them anew"
    assert {model.__name__ for model in SCHEMAS.values()} <= {name for _, name, _ in tables["TABLE"].findall(page)}
    for model in (*SCHEMAS.values(), HolderMemory, ReferenceMemory):
        assert all(field.description for field in model.model_fields.values())


@pytest.mark.slow
def test_suites_of_extending(extended):
    """The lines with which an author tests a task, as they stand there."""
    text = (ROOT / "docs" / "guides" / "extend.md").read_text(encoding="utf-8")
    (suite,) = re.findall(r"^```python\n([^`]*TestRating = conformance\([^`]*)^```$", text, re.MULTILINE)
    (extended / "test_rating.py").write_text(f"{suite}\n{SUITES}", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(extended)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_rating.py"]
    done = subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout


def test_every_choice_is_described():
    split = (ROOT / "docs/concepts/split.md").read_text(encoding="utf-8")
    for package, page in (("tasks", "reference/tasks/index.md"), ("aggregation.methods", "concepts/merging.md")):
        told = re.findall(r"`[\w-]+`", (ROOT / "docs" / page).read_text(encoding="utf-8"))
        assert {f"`{name}`" for name in discovery.names(package)} <= set(told)
    for kind in KINDS:
        assert kind == "labels" or f"`{kind}`" in split  # labels travel with activations


def test_every_command_is_described():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(discovery.names("cli")) == set(re.findall(r"`atlas ([a-z-]+)", readme))


@pytest.mark.packaged  # asks the hub for the weights of GPT-2 first
@pytest.mark.filterwarnings("ignore")  # a program goes on after them
def test_python_example_of_the_readme(capsys):
    (example,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    exec(example, {"__name__": "__main__"})
    loss, bytes_up, middle = capsys.readouterr().out.split()
    assert 1.5 < float(loss) < 4 and int(bytes_up) > 3 * 4 * 16 * 768 * 4 and middle == "6"
