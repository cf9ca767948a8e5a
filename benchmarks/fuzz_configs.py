"""Configs that are wrong in every way: each must be valid, or an error in words that names the place.

    python benchmarks/fuzz_configs.py                  1,000 configs, about 2 minutes on 2 cores
    python benchmarks/fuzz_configs.py --count 10000
    python benchmarks/fuzz_configs.py --count 300 --train    what is valid is trained too, a round of one step

Each case is a shipped config, on a tiny model and small files, after a few changes of its tree or of its text, or is
made up altogether. It goes through ``load_config`` and ``atlas validate``. Wrong is: a traceback or an unexpected
exception, more than 30 seconds, an exit code that is neither 0, 2, 3 nor 5, a line that names neither the file and a
line nor a key, and anything written; and with ``--train`` a config that is valid and then refused. Prints a table, and
the cases that are wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from atlas_cli.cli import main as atlas
from atlas_cli.config.load import load_config
from atlas_cli.errors import AtlasError, ConfigError, ResourceError
from atlas_cli.packages import fetch as packages

sys.path.append(str(Path(__file__).parent))
from fuzz_values import FILES, KEYS, PLAUSIBLE, SCALARS, SNIPPETS

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 30
DECODER_TASKS = {"causal-lm", "instruction", "chat"}


def main() -> None:
    """Print the table; exit code 1 when a case is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", action="store_true")
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from support.tiny_models import tiny_model, word_tokenizer
    from support.toy_runs import write_data

    outcomes, wrong, slowest = Counter[str](), 0, (0.0, 0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for family in ("bert", "gpt2"):
            tiny_model(family).save_pretrained(folder / family)
            word_tokenizer(family == "gpt2").save_pretrained(folder / family)
        write_data(folder)
        bases = shipped(folder, {family: str(folder / family) for family in ("bert", "gpt2")})
        for i in range(asked.count):
            began = time.monotonic()
            content = case(random.Random(f"{asked.seed}-{i}"), bases)
            outcome, problem = check(content, folder)
            if asked.train and outcome == "exit 0" and not problem:
                outcome, problem = train(folder)
            slowest = max(slowest, (time.monotonic() - began, i))
            outcomes[outcome] += 1
            if problem:
                wrong += 1
                print(f"--- case {i}: {problem}\n{content.decode('utf-8', 'replace')[:3000]}\n", flush=True)
    for outcome, count in sorted(outcomes.items()):
        print(f"{outcome:24} {count:6}")
    print(f"{asked.count} configs, {wrong} wrong; the slowest, case {slowest[1]}, took {slowest[0]:.1f} s")
    sys.exit(bool(wrong))


def shipped(folder: Path, models: dict[str, str]) -> list[dict[str, Any]]:
    """The shipped configs, on tiny models and the small files in ``folder``."""
    found = []
    shutil.copytree(ROOT / "configs" / "data" / "traces", folder / "data" / "traces", dirs_exist_ok=True)
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        tasks = {group["task"] for group in config["task_groups"].values()}
        config["model"] = {"name": models["gpt2" if tasks & DECODER_TASKS else "bert"], "split_layer": 2}
        for group in config["task_groups"].values():
            group["data"] = {"files": str(folder / FILES[group["task"]])}
            group.pop("classes", None)  # those of the data that it is shipped for
        for client in config["clients"].values():
            rank = client.get("rank")
            client.update({"rank": {0: 2, 1: 3}} if isinstance(rank, dict) else {"rank": 8} if rank == 64 else {})
        if config.get("partition", {}).get("scheme") == "column":
            config["partition"] = {"scheme": "iid"}  # the column is of the data that it is shipped for
        config["training"]["max_length"] = 32
        config["output"] = {"dir": str(folder / "runs")}
        found.append(config)
    return found


def case(draw: random.Random, bases: list[dict[str, Any]]) -> bytes:
    """The bytes of one config file."""
    kind = draw.random()
    if kind < 0.08:
        return draw.randbytes(draw.randint(0, 200))
    if kind < 0.2:
        return dump(_tree(draw, 4))
    config = copy.deepcopy(draw.choice(bases))
    if kind < 0.6:
        for _ in range(draw.choice([1, 2, 2, 3])):
            _set_plausible(draw, config)
        return dump(config)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        _change(draw, config)
    text = dump(config).decode()
    if kind > 0.8:
        for _ in range(draw.choice([1, 1, 2])):
            text = _edit(draw, text)
    return text.encode("utf-8", "replace")


def check(content: bytes, folder: Path) -> tuple[str, str]:
    """What came of a config, and what is wrong with that ("" where nothing is)."""
    path = folder / "fuzzed.yaml"
    path.write_bytes(content)
    before = _written(folder)
    out, err = io.StringIO(), io.StringIO()
    here = Path.cwd()
    try:
        os.chdir(folder)
        with _quick(), _offline(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with contextlib.suppress(ConfigError):
                load_config(path)
            code = atlas(["validate", str(path)])
    except AtlasError as error:
        return "raised", f"load_config raised {type(error).__name__}: {error}"
    except TimeoutError:
        return "hangs", f"more than {SECONDS} s"
    except Exception as error:
        return "raised", f"{type(error).__name__}: {error}"
    finally:
        os.chdir(here)
    outcome = f"exit {code}"
    lines = err.getvalue().splitlines()
    if code not in (0, 2, 3, 5):
        return outcome, f"exit code {code}: {lines}"
    if "Traceback" in err.getvalue() + out.getvalue():
        return outcome, "a traceback"
    if _written(folder) != before:
        return outcome, f"wrote {sorted(_written(folder) ^ before)}"
    for line in lines if code else ():
        if not _names_its_place(line, path):
            return outcome, f"names no place: {line}"
    return outcome, "" if not code or lines else "no message"


def train(folder: Path) -> tuple[str, str]:
    """What came of training the config that was checked last: to refuse it is wrong, to fail at its numbers is not."""
    out, err = io.StringIO(), io.StringIO()
    here = Path.cwd()
    short = ["training.rounds=1", "training.local_steps=1", f"output.dir={folder / 'runs'}"]
    try:
        os.chdir(folder)
        with _quick(), _offline(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = atlas(["train", str(folder / "fuzzed.yaml"), *short])
    except TimeoutError:
        return "trained, hangs", f"more than {SECONDS} s"
    except Exception as error:
        return "trained, raised", f"{type(error).__name__}: {error}"
    finally:
        os.chdir(here)
        shutil.rmtree(folder / "runs", ignore_errors=True)
    return f"trained, exit {code}", "" if code in (0, 4) else f"valid, and then: {err.getvalue()[-1000:]}"


def _names_its_place(line: str, path: Path) -> bool:
    """``FILE:LINE: ...``, ``FILE: KEY: ...``, a sentence on the file as a whole, or ``KEY: ...``."""
    text = line.removeprefix("error: ")
    key = r"[\w.\[\]-]+(\.[\w.\[\]\s-]+)*: "
    return text.startswith((f"{path}:", str(path))) or re.match(key, text) is not None or str(path.parent) in text


def _set_plausible(draw: random.Random, config: dict[str, Any]) -> None:
    """Give a known key a value of its type; X stands for any name of its section."""
    key, place = draw.choice(list(PLAUSIBLE)), config
    *sections, last = key.split(".")
    for section in sections:
        place = place.setdefault(draw.choice(list(place)) if section == "X" else section, {})
    place[last] = copy.deepcopy(draw.choice(PLAUSIBLE[key]))


def _change(draw: random.Random, config: dict[str, Any]) -> None:
    """One change somewhere in a tree."""
    places = list(_places(config))
    parent, key = draw.choice(places)
    do = draw.choice(["set", "set", "set", "delete", "add", "rename", "move", "wrap", "misspell"])
    if do == "set":
        parent[key] = draw.choice(SCALARS) if draw.random() < 0.7 else _tree(draw, 2)
    elif do == "delete":
        del parent[key]
    elif isinstance(parent, dict) and do == "add":
        parent[draw.choice(KEYS)] = _tree(draw, 2)
    elif isinstance(parent, dict) and do == "rename":
        parent[draw.choice(KEYS)] = parent.pop(key)
    elif isinstance(parent, dict) and do == "misspell":
        letters = list(str(key))
        letters.insert(draw.randint(0, len(letters)), draw.choice("aeiou_-."))
        parent["".join(letters)] = parent.pop(key)
    elif do == "move":
        other, name = draw.choice(places)
        with contextlib.suppress(KeyError, IndexError):  # the one may lie in the other
            other[name] = copy.deepcopy(parent[key])
    else:
        parent[key] = [parent[key]] if draw.random() < 0.5 else {draw.choice(KEYS): parent[key]}


def _places(tree: Any) -> Any:
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _tree(draw: random.Random, depth: int) -> Any:
    kind = draw.random() if depth else 0
    if kind < 0.5:
        return draw.choice(SCALARS)
    if kind < 0.65:
        return [_tree(draw, depth - 1) for _ in range(draw.randint(0, 3))]
    return {draw.choice(KEYS): _tree(draw, depth - 1) for _ in range(draw.randint(0, 4))}


def _edit(draw: random.Random, text: str) -> str:
    """One change of a text that need not leave YAML."""
    at, lines = draw.randint(0, len(text)), text.splitlines(keepends=True)
    row = draw.randrange(len(lines)) if lines else 0
    do = draw.choice(["insert", "cut", "drop", "double", "swap", "indent", "delete line", "double line"])
    if do == "insert":
        return text[:at] + draw.choice(SNIPPETS) + text[at:]
    if do == "cut":
        return text[:at]
    if do == "drop":
        return text[:at] + text[at + 1 :]
    if do == "double":
        return text + text
    if do == "swap":
        return text[:at] + chr(draw.choice([draw.randint(1, 126), draw.randint(128, 0xD7FF)])) + text[at + 1 :]
    if do == "indent":
        lines[row : row + 1] = [" " * draw.randint(1, 3) + line for line in lines[row : row + 1]]
    elif do == "delete line":
        del lines[row : row + 1]
    else:
        lines[row:row] = lines[row : row + 1]
    return "".join(lines)


def dump(tree: Any) -> bytes:
    """A tree as a config file."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "replace")


def _written(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def _quick() -> Any:
    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _offline() -> Any:
    """No network and no pip: what is not here is reported as such, at once."""

    def refuse(package: Any, folder: Path) -> Path:
        raise ResourceError(f"data: {package.name} is not in the cache, and no network is used")

    real, packages._download = packages._download, refuse
    try:
        yield
    finally:
        packages._download = real


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
