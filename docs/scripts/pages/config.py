"""The keys of a config: type, unit, default, meaning and an example of each, from the models of ``config/schema``."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from atlas_cli import units
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.privacy import PrivacyConfig
from pages.prose import NOTE, cell, inline, table

PAGES = {
    "experiment": ("The experiment", ("name", "seed", "data_seed", "mode", "device", "threads")),
    "model": ("Model and adapters", ("model", "lora", "server")),
    "clients": ("Clients and devices", ("clients", "devices", "allocation")),
    "data": ("Data", ("task_groups", "partition", "holdout")),
    "training": ("Training", ("training", "evaluation")),
    "merging": ("Merging", ("aggregation", "clustering")),
    "wire": ("Bytes at the cut", ("wire",)),
    "privacy": ("Privacy", ("privacy",)),
    "failures": ("Clients that fail", ("screen", "faults")),
    "engine": ("Engine", ("engine",)),
    "records": ("What a run leaves", ("output", "checkpoints", "audit", "trackers")),
}
QUANTITIES = {
    units.parse_bytes: ("a size", "B, KiB, MiB, GiB, TiB, kB, MB, GB, TB"),
    units.parse_compute: ("a rate of computing", "FLOP/s, MFLOP/s, GFLOP/s, TFLOP/s"),
    units.parse_rate: ("a rate of a link", "bit/s, kbit/s, Mbit/s, Gbit/s, kB/s, MB/s, GB/s"),
    units.parse_time: ("a time", "ms, s, min, h"),
    units.parse_power: ("a power", "mW, W, kW"),
}
WORDS = {str: "text", int: "an integer", float: "a number", bool: "true or false", Any: "any value"}
PLURAL = {str: "texts", int: "integers", float: "numbers"}
SIGNS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


class Key(NamedTuple):
    """A key of a config: its path with dots, and its field in the model of its section."""

    path: str
    field: FieldInfo


def sections(
    model: type[BaseModel], path: str, meaning: str = "", without: Collection[str] = ()
) -> Iterator[tuple[str, str, list[Key]]]:
    """A section with what it is and its own keys, and then every section below it; names that the user gives are
    ``NAME``.

    Args:
        meaning: what its field says, where its model is that of others beside it, too.
        without: keys of its model that may not be set there.
    """
    own, below = [], []
    for name, field in model.model_fields.items():
        if section := _section(field):
            of_names = get_origin(_without_none(field.annotation)) is dict
            below.append((f"{path}{name}" + (".NAME" if of_names else ""), section, field))
        elif name not in without:
            own.append(Key(f"{path}{name}", field))
    yield path.rstrip("."), " ".join(filter(None, (meaning, model.__doc__))), own
    models = [section for _, section, _ in below]
    for where, section, field in below:
        says = (field.description or "") if models.count(section) > 1 else ""
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        yield from sections(section, f"{where}.", says, extra.get("properties", {}))


def all_keys() -> list[Key]:
    """Every key that a config may have, apart from sections."""
    return [key for _, _, keys in sections(ExperimentConfig, "") for key in keys]


def example(key: Key) -> Any:
    """A value that the key may have: the one given in the schema, else its default.

    Raises:
        LookupError: neither is there.
    """
    if key.field.examples:
        return key.field.examples[0]
    if key.field.is_required() or key.field.get_default() is None:
        raise LookupError(f"{key.path} has no example")
    return key.field.get_default()


def pages() -> dict[str, str]:
    """The pages by path below ``reference/``."""
    covered = [name for _, names in PAGES.values() for name in names]
    if sorted(covered) != sorted(ExperimentConfig.model_fields):
        raise LookupError(
            f"PAGES covers other sections than a config has: {set(ExperimentConfig.model_fields) ^ set(covered)}"
        )
    found = {f"config/{name}.md": _page(title, names) for name, (title, names) in PAGES.items()}
    return {"config/index.md": _index(), **found}


def _index() -> str:
    rows = [
        (f"[{title}]({name}.md)", ", ".join(f"`{section}`" for section in sections))
        for name, (title, sections) in PAGES.items()
    ]
    lines = [
        "# Keys of a config\n",
        NOTE,
        "An experiment is one YAML file. Every key that it may have stands on one of these pages, with its type,",
        "default, meaning and an example. An unknown key is an error that names the file, the line and the nearest",
        "key.",
        "`atlas config show FILE` prints all keys with their values, and `atlas config schema` writes a JSON schema",
        "for editors. On the command line a key is written with dots: `atlas train FILE training.rounds=3`.\n",
        table(("page", "sections"), rows),
    ]
    return "\n".join(lines)


def _page(title: str, names: tuple[str, ...]) -> str:
    parts = [f"# {title}\n\n{NOTE}"]
    scalars = [
        Key(name, ExperimentConfig.model_fields[name])
        for name in names
        if not _section(ExperimentConfig.model_fields[name])
    ]
    if scalars:
        parts.append("Keys at the top of a config.\n\n" + rows_of(scalars))
    for name in names:
        field = ExperimentConfig.model_fields[name]
        if section := _section(field):
            if name == "privacy":
                section = PrivacyConfig
            of_names = get_origin(_without_none(field.annotation)) is dict
            for path, says, keys in sections(section, name + (".NAME." if of_names else ".")):
                parts.append(f"## `{path}`\n\n{inline(says)}\n" + (f"\n{rows_of(keys)}" if keys else ""))
    return "\n".join(parts)


def rows_of(keys: list[Key]) -> str:
    """The table of some keys."""
    rows = [
        (
            f"`{key.path.rsplit('.', 1)[-1]}`",
            cell(type_of(key.field)),
            _default(key.field),
            cell(key.field.description or ""),
            _shown(key),
        )
        for key in keys
    ]
    return table(("key", "type and unit", "default", "meaning", "example"), rows)


def type_of(field: FieldInfo) -> str:
    """The type of a key's values in words, with bounds and unit."""
    words = _words(field.annotation, field.metadata)
    bounds = [
        f"{SIGNS[type(m)][1]} {_number(getattr(m, SIGNS[type(m)][0]))}" for m in field.metadata if type(m) in SIGNS
    ]
    unit = field.json_schema_extra.get("unit") if isinstance(field.json_schema_extra, dict) else None
    return words + (f", {' and '.join(bounds)}" if bounds else "") + (f" ({unit})" if unit else "")


def _words(annotation: Any, metadata: Any = ()) -> str:
    for each in metadata:
        if isinstance(each, BeforeValidator) and isinstance(each.func, partial):
            what, listed = QUANTITIES[each.func.args[0]]
            return f"{what}: {listed}"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0], annotation.__metadata__)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(each) for each in arguments if each is not type(None)))
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is list:
        of = get_args(arguments[0])[0] if get_origin(arguments[0]) is Annotated else arguments[0]
        return f"a list of {PLURAL.get(of, 'integers or texts')}"
    if origin is dict:
        return f"by name, {_words(arguments[1])}" if arguments[0] is not int else f"by layer, {_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"`{{{', '.join(annotation.model_fields)}}}`"
    return WORDS.get(annotation, f"`{annotation.__name__}`" if isinstance(annotation, type) else "any value")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default()
    return "none" if value is None or value == {} else f"`{_yaml(value)}`"


def _shown(key: Key) -> str:
    try:
        return f"`{_yaml(example(key))}`"
    except LookupError:  # an option of a plug-in, which need not have one
        return ""


def _yaml(value: Any) -> str:
    if isinstance(value, float):
        return _number(value)
    return yaml.safe_dump([value], default_flow_style=True, width=10**6).strip()[1:-1]


def _number(value: float) -> str:
    if value == 2**64:
        return "2^64"
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _section(field: FieldInfo) -> type[BaseModel] | None:
    annotation = _without_none(field.annotation)
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        kept = [each for each in get_args(annotation) if each is not type(None)]
        return kept[0] if len(kept) == 1 else annotation
    return annotation
