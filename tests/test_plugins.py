"""Plug-ins: found by file and by entry point, and held against their contract before any is used."""

import sys
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import pytest

from atlas_cli import discovery, plugins
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.config.load import load_config
from atlas_cli.data.corpora.contract import BaseCorpus
from atlas_cli.data.sources.contract import BaseSource
from atlas_cli.errors import ConfigError
from atlas_cli.privacy.mechanisms.contract import BaseMechanism
from atlas_cli.wire.codecs.contract import BaseCodec

CONTRACTS = {
    "data.sources": ("Source", BaseSource),
    "data.corpora": ("Corpus", BaseCorpus),
    "audit.attacks": ("Attack", BaseAttack),
    "privacy.mechanisms": ("Mechanism", BaseMechanism),
    "wire.codecs": ("Codec", BaseCodec),
}


@pytest.mark.parametrize(("package", "name"), [(p, name) for p in CONTRACTS for name in discovery.names(p)])
def test_every_plugin_of_atlas_keeps_its_contract(package, name):
    plugin = plugins.load_class(package, name, *CONTRACTS[package])
    assert plugin.__doc__ and sys.modules[plugin.__module__].__doc__


def test_a_plugin_of_another_package_is_found_and_imported_only_when_asked_for(install):
    install("lab-one", {"lab_one": "VALUE = 7"}, "[atlas.aggregation]\nmy_median = lab_one\n")
    assert "my-median" in discovery.names("aggregation.methods") and "delta-svd" in discovery.names(
        "aggregation.methods"
    )
    assert "lab_one" not in sys.modules
    assert discovery.load("aggregation.methods", "my-median").VALUE == 7
    (plugin,) = discovery.installed("aggregation.methods")
    assert (plugin.package, plugin.version) == ("lab-one", "1.5")


@pytest.mark.parametrize("name", ["zero-pad", "twice"])
def test_a_name_that_two_claim_is_refused_with_both_origins(install, name):
    install("lab-one", {"lab_one": ""}, f"[atlas.aggregation]\n{name} = lab_one\n")
    if name == "twice":
        install("lab-two", {"lab_two": ""}, "[atlas.aggregation]\ntwice = lab_two\n")
    with pytest.raises(ConfigError, match="is claimed by") as error:
        discovery.load("aggregation.methods", name, key="aggregation.method")
    other = "lab-two 1.5" if name == "twice" else "atlas_cli/aggregation/methods/zero_pad.py"
    assert "lab-one 1.5 (entry point atlas.aggregation" in str(error.value) and other in str(error.value)
    assert discovery.load("aggregation.methods", "ffa")  # the others are as they were


@pytest.mark.parametrize(
    ("text", "target", "reason"),
    [
        (
            "import no_such_library",
            "lab_bad",
            "ModuleNotFoundError: No module named 'no_such_library' (in lab_bad.py, line 1)",
        ),
        ("raise SystemExit(3)", "lab_bad", "SystemExit: 3 (in lab_bad.py, line 1)"),
        ("", "lab_gone", "ModuleNotFoundError: No module named 'lab_gone'"),
        ("1 +", "lab_bad", "SyntaxError: invalid syntax (lab_bad.py, line 1)"),
        ("", "lab_bad:thing", "must name a module, such as lab_atlas.factor_median"),
    ],
)
def test_a_broken_plugin_is_one_line_that_names_package_and_entry_point(install, text, target, reason):
    install("lab-bad", {"lab_bad": text}, f"[atlas.tasks]\nbad = {target}\n")
    assert "bad" in discovery.names("tasks")
    with pytest.raises(ConfigError) as error:
        discovery.load("tasks", "bad", key="task_groups.g.task")
    message = str(error.value)
    assert message.startswith(f"task_groups.g.task: lab-bad 1.5 (entry point atlas.tasks: bad = {target})")
    assert message.endswith(reason) and "\n" not in message


def test_entry_points_that_nothing_asks_for_are_named(install, tmp_path, capsys):
    entries = (
        "[atlas.aggregations]\nmean = lab_one\n[atlas.tasks]\nMy Task = lab_one\nmy_task = lab_one\n[other]\nx = y\n"
    )
    install("lab-one", {"lab_one": ""}, entries)
    assert discovery.misnamed() == [
        "lab-one 1.5 (entry point atlas.aggregations: mean = lab_one) is not used: atlas.aggregations is no group of "
        "plug-ins; did you mean atlas.aggregation?",
        "lab-one 1.5 (entry point atlas.tasks: My Task = lab_one) is not used: its name may have small letters, digits,"
        " - and _ alone",
    ]
    assert "my-task" in discovery.names("tasks") and "My Task" not in discovery.names("tasks")
    (tmp_path / "x.yaml").write_text("name: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError):
        load_config(tmp_path / "x.yaml")
    assert capsys.readouterr().err.count("note: lab-one 1.5") == 2


def test_metadata_that_cannot_be_read_harms_nobody(install):
    install("lab-odd", {}, "[atlas.tasks]\nno equals sign\n")
    assert "causal-lm" in discovery.names("tasks")


class Contract(ABC):
    colour: ClassVar[Literal["red", "blue"]]
    size: ClassVar[int] = 1

    @abstractmethod
    def run(self, evidence, *, seed): ...

    def weigh(self, rows, scale=1.0):
        return 0


class Good(Contract):
    colour = "red"
    _own = "anything"

    def run(self, evidence, *, seed=0, more=None): ...


def test_what_keeps_the_contract_passes():
    plugins.check(Good, Contract)


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"weight": lambda self, rows, scale: 1}, r"Bad\.weight is nothing that Contract has; did you mean weigh\?"),
        ({"__annotations__": {"colur": "str"}}, r"Bad\.colur is nothing that Contract has; did you mean colour\?"),
        ({"colour": "green"}, r"Bad\.colour is 'green': Input should be 'red' or 'blue'"),
        ({"size": "2"}, r"Bad\.size is '2': Input should be a valid integer"),
        ({"run": lambda self: 1}, r"Bad\.run takes \(self\), and is called with \(self, evidence, seed\)"),
        ({"weigh": lambda self, rows, scale: 1}, r"Bad\.weigh takes \(self, rows, scale\)"),
        ({"weigh": 3}, r"Bad\.weigh is 3, and must be a method weigh\(self, rows, scale\)"),
    ],
)
def test_what_breaks_the_contract_is_named_with_file_and_nearest_name(attributes, problem):
    with pytest.raises(ConfigError, match=rf"{__name__}\.py: {problem}"):
        plugins.check(type("Bad", (Good,), {"__module__": __name__, **attributes}), Contract)


def test_what_must_be_given_and_is_not_is_named():
    with pytest.raises(ConfigError, match=r"Empty defines no run\(self, evidence, seed\)"):
        plugins.check(type("Empty", (Contract,), {"__module__": __name__, "colour": "red"}), Contract)
    with pytest.raises(ConfigError, match="Plain does not say its colour"):
        plugins.check(type("Plain", (Contract,), {"__module__": __name__, "run": Good.run}), Contract)


def test_a_file_without_its_class_is_refused(install):
    install("lab-odd", {"lab_odd": "class Tsk: pass"}, "[atlas.tasks]\nodd = lab_odd\n")
    with pytest.raises(ConfigError, match=r"lab-odd 1\.5 \(.*\) defines no class Task .*did you mean Tsk\?"):
        plugins.load_class("tasks", "odd", "Task", Contract)
