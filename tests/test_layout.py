"""What holds of every file of the package: what it may not do, how long it is, what a plug-in defines.

Which room may import which is in pyproject.toml, as contracts of import-linter.
"""

import ast
import statistics

import pytest
from support.sources import ROOT, trees

from atlas_cli import discovery
from atlas_cli.planning.method import load_method


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module):
    return module.split(".")[1] if "." in module else ""


def at_import(tree):
    """Statements that run when a module is imported: not those of functions, nor of ``if TYPE_CHECKING``."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)


HEAVY = {"torch", "transformers", "datasets", "matplotlib", "pandas", "numpy", "peft", "pyarrow", "gguf"}


def test_command_line_and_config_do_not_import_heavy_libraries_at_the_top():
    modules, heavy = {name_of(path): tree for path, tree in trees().items()}, []
    # tables come with results, when there is something to show
    for module in (m for m in modules if part_of(m) in ("cli", "config") and "_tables" not in m):
        for node in at_import(modules[module]):
            named = set()
            if isinstance(node, ast.Import):
                named = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named = {node.module.split(".")[0]}
            heavy += [f"{module}:{node.lineno}: {name}" for name in named & HEAVY]
    assert heavy == []


def test_no_file_is_long_and_most_are_short():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in trees()}
    assert [(name_of(path), length) for path, length in lengths.items() if length > 400] == []
    assert statistics.median(length for path, length in lengths.items() if path.name != "__init__.py") <= 130


def test_no_drawer_for_everything():
    names = {path.stem for path in trees()}
    assert not names & {"utils", "util", "helpers", "common", "misc", "core", "base"}


def test_no_two_test_files_have_one_name():
    """Pytest imports them by their names alone, and collects none of the suite where two are alike."""
    names = [path.name for path in (ROOT.parent / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__"}
UNPACK = {"extract", "extractall", "unpack_archive"}  # an archive may name files outside the folder
UNSAFE_CALLS = {
    ("torch", "load"),
    ("torch", "save"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("numpy", "load"),
    ("np", "load"),
    ("os", "system"),
}


def unsafe(tree):
    """What a module does that could run code found in a file, by line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = {alias.name.split(".")[0] for alias in node.names} & UNSAFE_MODULES
            yield from ((node.lineno, name) for name in found)
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            if module in UNSAFE_MODULES:
                yield node.lineno, module
            yield from ((node.lineno, a.name) for a in node.names if (module, a.name) in UNSAFE_CALLS)
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in UNSAFE_NAMES:
                yield node.lineno, called.id
            if isinstance(called, ast.Attribute) and called.attr in UNPACK:
                yield node.lineno, called.attr
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                name = (called.value.id, called.attr)
                safe_yaml = name == ("yaml", "load") and any("Loader" in ast.unparse(a) for a in node.args[1:])
                if name in UNSAFE_CALLS and not safe_yaml:
                    yield node.lineno, ".".join(name)
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if keyword.arg in ("trust_remote_code", "allow_pickle", "shell") and value is not False:
                    yield node.lineno, keyword.arg
                if keyword.arg == "use_safetensors" and value is not True:
                    yield node.lineno, keyword.arg


def test_nothing_runs_code_from_a_file():
    assert [(name_of(path), *found) for path, tree in trees().items() for found in unsafe(tree)] == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "from torch import load",
        "torch.load('x')",
        "eval('1')",
        "exec('1')",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=flag)",
        "np.load('x', allow_pickle=True)",
        "subprocess.run('ls', shell=True)",
        "archive.extractall(folder)",
        "shutil.unpack_archive('x')",
    ],
)
def test_the_search_for_unsafe_code_finds_it(code):
    assert list(unsafe(ast.parse(code)))


def test_every_load_of_weights_refuses_code_and_other_formats():
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                options = {k.arg for k in node.keywords}
                owner = ast.unparse(node.func.value)
                if node.func.attr == "from_pretrained" and owner == "auto":
                    assert {"trust_remote_code", "use_safetensors"} <= options, f"{path.name}:{node.lineno}"


def in_some_encoding(tree):
    """Lines that read or write text in the encoding of the system, which on Windows is not UTF-8."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or "encoding" in {keyword.arg for keyword in node.keywords}:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if name in ("read_text", "write_text"):
            found = len(node.args) < (1 if name == "read_text" else 2)
        elif isinstance(node.func, ast.Name):
            found = name == "open" and not any("b" in text for text in texts[-1:])
        else:
            found = name == "open" and bool({"r", "w", "a", "x"} & set(texts[:1]))
        if found:
            yield node.lineno


@pytest.mark.parametrize("folder", ["atlas_cli", "tests", "benchmarks", "docs", ".ci"])
def test_text_is_read_and_written_in_a_named_encoding(folder):
    for path in (ROOT.parent / folder).rglob("*.py"):
        tree = trees().get(path) or ast.parse(path.read_text(encoding="utf-8"))
        assert list(in_some_encoding(tree)) == [], path


@pytest.mark.parametrize(
    "code", ["p.read_text()", "p.write_text(x)", "open(p)", "open(p, 'w')", "p.open('a')", "p.open('w', newline='')"]
)
def test_the_search_for_texts_without_an_encoding_finds_them(code):
    assert list(in_some_encoding(ast.parse(code))) == [1]
    assert not list(in_some_encoding(ast.parse(code.replace(")", ", encoding='utf-8')").replace("(, ", "("))))


PLUGINS = {
    "aggregation.methods": {"Method"},
    "models.families": {"Family"},
    "tasks": {"Task"},
    "trackers.libraries": {"Tracker"},
    "cli": {"command|app"},
}


@pytest.mark.parametrize(("package", "name"), [(p, name) for p in PLUGINS for name in discovery.names(p)])
def test_every_plugin_file_keeps_its_contract(package, name):
    module = discovery.load(package, name)
    assert module.__doc__
    for wanted in PLUGINS[package]:
        assert any(hasattr(module, each) for each in wanted.split("|")), f"{module.__name__} defines no {wanted}"
    if package == "aggregation.methods":
        assert load_method(name).__doc__
    if package == "tasks":
        task = module.Task
        assert task.primary_metric and task.fields and not task.__abstractmethods__
    if package == "models.families":
        family = module.Family
        assert family.model_types and family.targets and family.blocks


@pytest.mark.parametrize("package", discovery.GROUPS)
def test_what_a_folder_says_of_its_plugins_is_none(package):
    assert "contract" not in set(discovery.names(package))


def test_no_two_families_claim_one_model_type():
    types = [
        t
        for name in discovery.names("models.families")
        for t in discovery.load("models.families", name).Family.model_types
    ]
    assert len(types) == len(set(types))


def test_no_machine_paths_or_hosts():
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text, where = node.value, f"{name_of(path)}:{node.lineno}"
                assert not text.startswith(("/home/", "/Users/", "/root/", "/work/", "/tmp/")), where
                elsewhere = text.replace("https://json-schema.org", "").replace("https://arxiv.org", "")
                assert "https://" not in elsewhere, where
