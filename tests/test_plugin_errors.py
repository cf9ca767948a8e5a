"""An error in a plug-in's code names the plug-in, its file and line, its hook, and where it was called."""

import re

import pytest

from atlas_cli.aggregation.contract import BaseMethod
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.data.corpora.contract import BaseCorpus
from atlas_cli.data.sources.contract import BaseSource
from atlas_cli.errors import ConfigError, PluginError, during
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.plugin_errors import described
from atlas_cli.plugins import load_class
from atlas_cli.privacy.mechanisms.contract import BaseMechanism
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.codecs.contract import BaseCodec

PLUGINS = {
    "task": (
        "from atlas_cli.tasks.sequence_classification import Task as Base\n"
        "class Task(Base):\n    def _outputs(self):\n        return 1 / 0\n",
        ("tasks", "Task", BaseTask),
        lambda made: made(["a", "b"]).build_head(8, None),
        "TextTask.build_head",
    ),
    "task_inherited": (
        "from atlas_cli.tasks.sequence_classification import Task as Base\nclass Task(Base):\n    pass\n",
        ("tasks", "Task", BaseTask),
        lambda made: made(["a", "b"]).encode({"text": "x", "label": "a"}, None, 8),
        "encode",
    ),
    "method": (
        "from atlas_cli.aggregation.methods import zero_pad\n"
        "from atlas_cli.aggregation.contract import ClientTerm\n"
        "class Method(zero_pad.Method):\n    def client_term(self):\n        return _Term()\n"
        "class _Term(ClientTerm):\n    def penalty(self, adapters):\n        return _halved(0)\n"
        "def _halved(x):\n    return 1 / x\n",
        ("aggregation.methods", "Method", BaseMethod),
        lambda made: made().client_term().penalty({}),
        "_Term.penalty",
    ),
    "mechanism": (
        "from atlas_cli.privacy.mechanisms.contract import BaseMechanism\n"
        "class Mechanism(BaseMechanism):\n    protects = 'x'\n"
        "    def sent(self, activations, mask, now):\n        return 1 / 0\n",
        ("privacy.mechanisms", "Mechanism", BaseMechanism),
        lambda made: made(None, 0, "a").sent(None, None, (1, 2)),
        "Mechanism.sent",
    ),
    "codec": (
        "from atlas_cli.wire.codecs.none import Codec as Base\n"
        "class Codec(Base):\n    def encode(self, values, generator):\n        return 1 / 0\n",
        ("wire.codecs", "Codec", BaseCodec),
        lambda made: made(None).encode(None, None),
        "Codec.encode",
    ),
    "family": (
        "from atlas_cli.models.families.gpt2 import Family as Base\n"
        "class Family(Base):\n    def positions(self, config):\n        return 1 / 0\n",
        ("models.families", "Family", BaseFamily),
        lambda made: made().positions(None),
        "Family.positions",
    ),
    "source": (
        "from atlas_cli.data.sources.contract import BaseSource\n"
        "class Source(BaseSource):\n    def load(self, data, key):\n        return 1 / 0\n",
        ("data.sources", "Source", BaseSource),
        lambda made: made().load(None, "data"),
        "Source.load",
    ),
    "corpus": (
        "from atlas_cli.data.corpora.contract import BaseCorpus\n"
        "class Corpus(BaseCorpus):\n    task = licence = 'x'\n    def rows(self, folder):\n        return 1 / 0\n",
        ("data.corpora", "Corpus", BaseCorpus),
        lambda made: made().rows(None),
        "Corpus.rows",
    ),
    "attack": (
        "from atlas_cli.audit.attacks.contract import BaseAttack\n"
        "class Attack(BaseAttack):\n    channel = knows = 'x'\n    def attack(self, evidence):\n        return 1 / 0\n",
        ("audit.attacks", "Attack", BaseAttack),
        lambda made: made("x").attack(None),
        "Attack.attack",
    ),
}
GROUPS = {
    "tasks": ("atlas.tasks", "task"),
    "aggregation.methods": ("atlas.aggregation", "aggregation method"),
    "privacy.mechanisms": ("atlas.mechanisms", "mechanism"),
    "wire.codecs": ("atlas.codecs", "codec"),
    "models.families": ("atlas.families", "model family"),
    "data.sources": ("atlas.sources", "data source"),
    "data.corpora": ("atlas.corpora", "corpus"),
    "audit.attacks": ("atlas.attacks", "attack"),
}


@pytest.mark.parametrize("kind", PLUGINS)
def test_an_error_in_a_hook_names_the_plugin(kind, install, tmp_path):
    text, (package, attribute, contract), call, hook = PLUGINS[kind]
    group, words = GROUPS[package]
    install("lab-one", {f"lab_{kind}": text}, f"[{group}]\nmine = lab_{kind}\n")
    made = load_class(package, "mine", attribute, contract)
    with pytest.raises((ZeroDivisionError, TypeError)) as caught, during("round 3"), during("task group mail"):
        call(made)
    said = described(caught.value)
    line = 1 + next((i for i, each in enumerate(text.splitlines()) if "1 /" in each), 0)
    file, what = str(tmp_path / f"lab-one/lab_{kind}.py"), f"line {line}"
    if kind == "task_inherited":
        file, what = "atlas_cli/tasks/_texts.py", "line "
    assert said.startswith(f"{words} 'mine' ({file}, {what}"), said
    assert re.search(rf"{hook} raised \w+Error: .*, in round 3, task group mail$", said), said


def test_errors_of_atlas_are_what_they_say():
    with pytest.raises(ConfigError) as caught, during("round 3"):
        raise ConfigError("is wrong", key="a.b")
    assert described(caught.value) == "a.b: is wrong"
    with pytest.raises(PluginError) as caught, during("round 3"), during("client a"):
        raise PluginError("x.py: Method.deliver gives nothing")
    assert described(caught.value) == "x.py: Method.deliver gives nothing, in round 3, client a"
    assert described(ValueError("two\n  lines")) == "unexpected ValueError: two lines"
