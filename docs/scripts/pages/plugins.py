"""A page for each aggregation method, attack, mechanism, codec, family and task, from its docstring and its class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from atlas_cli import discovery
from atlas_cli.aggregation.contract import TURNS
from atlas_cli.config.schema.wire import CodecConfig
from atlas_cli.models.families import supported_models
from atlas_cli.models.families._tested import CLAIMS
from atlas_cli.wire.codecs import codec_of
from atlas_cli.wire.codecs.contract import Layout, Part
from pages.config import Key, rows_of
from pages.prose import NOTE, cell, inline, markdown, summary, table

Facts = list[tuple[str, str]]


class Kind(NamedTuple):
    """One kind of plug-in: its folder, its class, its title, an introduction, its facts, and how a config names it."""

    package: str
    attribute: str
    title: str
    says: str
    facts: Callable[[str, Any], Facts]
    use: Callable[[str, Any], str]
    besides: Callable[[], str] = str


def yaml_block(text: str) -> str:
    """A piece of a config, as the tests look for it."""
    return f"```yaml\n{text}\n```\n"


def shell(text: str) -> str:
    """A command."""
    return f"```bash\n{text}\n```\n"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _parts(parts: tuple[str, ...]) -> str:
    return " and ".join(parts) or "nothing"


def _in_turn(method: Any, field: str) -> str:
    turns = [_parts(getattr(method().parts_of(merge), field)) for merge in TURNS]
    return ", then ".join(dict.fromkeys(turns))


def _method(name: str, method: Any) -> Facts:
    return [
        ("trained by clients", _in_turn(method, "trained")),
        ("sent up", _in_turn(method, "sent")),
        ("delivered", _in_turn(method, "delivered")),
        ("adapter of the group to predict with and to export", _yes(method.GROUP_ADAPTER)),
        ("changes the frozen base of the group's clients", _yes(method.CHANGES_BASE)),
        ("weights of clients", f"not used: it {method.UNWEIGHTED}" if method.UNWEIGHTED else "`aggregation.weights`"),
        ("clients of a group may have different split layers", _yes(_cuts_may_differ(method))),
    ]


def _cuts_may_differ(method: Any) -> bool:
    return method.CUTS_MAY_DIFFER and len(method.SENT) == 2 and not method.CHANGES_BASE


def _attack(name: str, attack: Any) -> Facts:
    return [("channel", f"`{attack.channel}`"), ("the adversary knows", attack.knows)]


def _mechanism(name: str, mechanism: Any) -> Facts:
    bounds = f"of the channel `{mechanism.channel}`" if mechanism.channel else "none"
    return [("protects", mechanism.protects), ("epsilon", bounds), ("one unit", mechanism.unit or "")]


def _codec(name: str, codec: Any) -> Facts:
    made = codec_of(CodecConfig(codec=name), "wire")
    shape, dtype = (8, 128, 768), torch.float32
    layout, whole = made.layout(shape, dtype), Part(shape, dtype).bytes
    change = made.change()
    encode, decode = made.flops(768)
    clock = f"{encode:g} to encode, {decode:g} to decode"
    parts = ", ".join(
        f"`{part}` {each.shape} {str(each.dtype).removeprefix('torch.')}" for part, each in layout.items()
    )

    def share(layout: Layout) -> str:
        size = sum(part.bytes for part in layout.values())
        return f"{size:,} of {whole:,} ({size / whole:.2%})"

    return [
        ("bytes of (8, 128, 768) float32 numbers", share(layout)),
        ("of the change of texts that were sent before", share(change.layout(shape, dtype)) if change else ""),
        ("its tensors", parts),
        ("FLOP a number on the virtual clock", clock if encode else ""),
        (
            "examples of a batch",
            "coupled: what is decoded of one depends on the others" if made.couples_examples else "",
        ),
    ]


def _family(name: str, family: Any) -> Facts:
    return [
        ("`model_type` in config.json", ", ".join(f"`{each}`" for each in family.model_types)),
        ("adapted by `lora.targets: auto`", ", ".join(f"`{each}`" for each in family.targets)),
        ("reads", "from left to right (a decoder)" if family.causal else "both ways (an encoder)"),
        ("where its blocks are", f"`{family.blocks}`"),
    ]


def _task(name: str, task: Any) -> Facts:
    figures = ", ".join(f"`{figure}` ({better} is better)" for figure, better in task.better.items())
    optional = tuple(task.optional_fields)
    return [
        ("columns", ", ".join(f"`{field}`" for field in task.fields)),
        ("columns that may be absent", ", ".join(f"`{field}`" for field in optional)),
        ("figures", figures),
        ("judged by", f"`{task.primary_metric}`"),
        ("classes", "yes, one an example" if task.one_class else "yes" if task.has_classes else "no"),
        ("models", "decoders only" if task.causal_only else "encoders and decoders"),
    ]


_COLUMNS = {"label": "kind", "tags": "ner_tags", "tokens": "words", "text": "body"}


def _use_method(name: str, method: Any) -> str:
    return yaml_block(f"aggregation: {{method: {name}}}")


def _use_attack(name: str, attack: Any) -> str:
    return shell(f"atlas audit RUN --attack {name}" if name != "lira" else "atlas audit RUN --lira 16")


def _use_mechanism(name: str, mechanism: Any) -> str:
    return yaml_block(_MECHANISMS[name]) if name in _MECHANISMS else ""


_MECHANISMS = {
    "activations": "privacy: {activations: {clip: 8.0, noise_multiplier: 0.05}}",
    "denoise": "privacy: {activations: {clip: 8.0, noise_multiplier: 0.05}, denoise: {rank: 8}}\n"
    "training: {labels: client}",
    "examples": "privacy: {examples: {clip: 1.0, epsilon: 8}}\ntraining: {labels: client}\nserver: {rank: 0}\n"
    "aggregation: {weights: uniform}",
    "fingerprints": "privacy: {fingerprints: {clip: 1.0, noise_multiplier: 1.0}}\nclustering: {k: 2}",
    "labels": "privacy: {labels: {epsilon: 4}}",
    "mask-gradients": "privacy: {mask_gradients: true}",
    "santext": "privacy: {santext: {epsilon: 15}}",
    "custext": "privacy: {custext: {epsilon: 1, tokens: 20}}",
    "mid": "privacy: {mid: {weight: 0.01}}\ntraining: {labels: client}",
    "nopeek": "privacy: {nopeek: {weight: 1.0}}",
    "pad-lengths": "privacy: {pad_lengths: 16}",
    "updates": "privacy: {updates: {clip: 0.5, epsilon: 8, where: client}}\n"
    "aggregation: {method: ffa, weights: uniform}",
}


def _use_codec(name: str, codec: Any) -> str:
    return yaml_block(f"wire:\n  activations: {{codec: {name}}}\n  gradients: {{codec: {name}}}")


def _use_family(name: str, family: Any) -> str:
    return shell("atlas split-point FOLDER")


def _tested_families() -> str:
    """The table of ``atlas models --supported``."""
    claims = "".join(f"- {claim.name}: {claim.says}\n" for claim in CLAIMS)
    rows = [
        (f"`{each.model_type}`", f"[`{each.family}`]({each.family}.md)", *(_yes(v) for v in each.tested.values()))
        for each in supported_models()
        if each.package is None
    ]
    return (
        "\n## What is tested\n\nOn small models of random weights; `atlas models --supported` prints the same. For an "
        "architecture that is not here, see [a model of no known "
        f"family](../model-files.md#a-model-of-no-known-family).\n\n{claims}\n"
        + table(("`model_type`", "family", *(claim.name for claim in CLAIMS)), rows)
    )


def _use_task(name: str, task: Any) -> str:
    columns = ", ".join(f"{field}: {_COLUMNS.get(field, field)}" for field in task.fields)
    return yaml_block(f"task_groups:\n  mail: {{task: {name}, data: {{files: mail.jsonl, {columns}}}}}")


KINDS = {
    "methods": Kind(
        "aggregation.methods",
        "Method",
        "Aggregation methods",
        "`aggregation.method` names one of them. [Ranks and merging](../../concepts/merging.md) compares what they "
        "compute and send; [aggregation, measured](../../results/aggregation.md) has their error, bytes, time and "
        "memory.",
        _method,
        _use_method,
    ),
    "attacks": Kind(
        "audit.attacks",
        "Attack",
        "Attacks",
        "`atlas audit` runs those that have something to work on. [What leaks](../../concepts/audit.md) says how "
        "figures are made; [privacy, measured](../../results/privacy.md) has some.",
        _attack,
        _use_attack,
    ),
    "mechanisms": Kind(
        "privacy.mechanisms",
        "Mechanism",
        "Privacy mechanisms",
        "Each is a key under `privacy`. [Privacy accounting](../../concepts/privacy.md) says how epsilon is counted; "
        "[privacy, measured](../../results/privacy.md), what mechanisms cost.",
        _mechanism,
        _use_mechanism,
    ),
    "codecs": Kind(
        "wire.codecs",
        "Codec",
        "Codecs",
        "`wire.KIND.codec` names one of them, for a kind of message. [Bytes at the cut](../../concepts/wire.md) "
        "compares them.",
        _codec,
        _use_codec,
    ),
    "families": Kind(
        "models.families",
        "Family",
        "Model families",
        "A model belongs to a family by the `model_type` of its config.json. [Model files](../model-files.md) says "
        "what is read, and what is refused.",
        _family,
        _use_family,
        _tested_families,
    ),
    "tasks": Kind(
        "tasks",
        "Task",
        "Tasks",
        "`task_groups.NAME.task` names one of them. [Data files](../data-files.md) says how rows are read.",
        _task,
        _use_task,
    ),
}


def pages() -> dict[str, str]:
    """All pages by path below ``reference/``."""
    found = {}
    for folder, kind in KINDS.items():
        rows = []
        for name in discovery.own_names(kind.package):
            module = discovery.load(kind.package, name)
            rows.append((f"[`{name}`]({name}.md)", cell(summary(module.__doc__))))
            found[f"{folder}/{name}.md"] = _page(name, kind, module)
        found[f"{folder}/index.md"] = f"# {kind.title}\n\n{NOTE}\n{kind.says}\n\n{table(('name', 'what it is'), rows)}"
        found[f"{folder}/index.md"] += kind.besides()
    return found


def _page(name: str, kind: Kind, module: Any) -> str:
    cls = getattr(module, kind.attribute)
    facts = [(what, cell(value)) for what, value in kind.facts(name, cls) if value]
    parts = [f"# {name}\n", NOTE, kind.use(name, cls), table(("property", "value"), facts), markdown(module.__doc__)]
    if kind.attribute in ("Family", "Task"):
        parts.append(markdown(inspect.getdoc(cls)))
    options = getattr(cls, "Options", None)
    if options is not None and options.model_fields:
        places = {"Method": "aggregation.options", "Codec": "wire.KIND.options"}
        where = places.get(kind.attribute, f"privacy.{name.replace('-', '_')}")
        keys = [Key(f"{where}.{key}", field) for key, field in options.model_fields.items()]
        parts += [f"## Options: `{where}`\n", inline(options.__doc__ or "") + "\n", rows_of(keys)]
    return "\n".join(part for part in parts if part)
