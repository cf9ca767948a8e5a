"""Plug-ins that keep a contract: a class in the plug-in's file, held against the class that documents the contract.

A contract is a class. Its attributes are annotated (those without a value must be given), its methods are hooks (those
that are abstract must be written), and what a plug-in leaves out works as the contract has it. Names that begin with an
underscore are the plug-in's own. Any other name that the contract does not have is taken for a misspelt one: a hook
that nothing calls would change no figure, and nobody would see it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from atlas_cli import discovery
from atlas_cli.errors import ConfigError
from atlas_cli.package_folder import PACKAGE_FOLDER
from atlas_cli.suggest import did_you_mean

T = TypeVar("T")


class Loaded(NamedTuple):
    """A plug-in in use: its folder in ``atlas_cli``, its name in YAML, and its module."""

    package: str
    name: str
    module: str


LOADED: dict[type, Loaded] = {}  # by the class that keeps the contract

S = TypeVar("S", bound=BaseModel)


def load_class(
    package: str,
    name: str,
    attribute: str,
    contract: type[T],
    *,
    key: str | None = None,
    more: Callable[[type[T]], None] | None = None,
) -> type[T]:
    """The class that a plug-in file defines, which keeps its contract.

    Args:
        package: its folder in ``atlas_cli``, as in ``discovery.GROUPS``.
        name: in YAML.
        attribute: the name of the class in the file.
        contract: what it inherits from.
        key: of the config, for errors.
        more: raises a ConfigError for what the contract asks for beyond names and types.

    Raises:
        ConfigError: no such plug-in, or it breaks the contract: names its origin, its file and what is wrong.
    """
    module = discovery.load(package, name, key=key)
    found = getattr(module, attribute, None)
    origin = discovery.find(package, name).origin
    if not (isinstance(found, type) and issubclass(found, contract)):
        classes = [
            n for n, each in vars(module).items() if isinstance(each, type) and each.__module__ == module.__name__
        ]
        hint = did_you_mean(attribute, classes) if found is None and classes else ""
        what = f"defines no class {attribute}" if found is None else f"has a {attribute} that is no subclass of it"
        raise ConfigError(f"{origin} {what} ({contract.__module__}.{contract.__name__}){hint}", key=key)
    try:
        check(found, contract)
        if more is not None:
            more(found)
    except ConfigError as error:
        where = f"{origin}: " if discovery.find(package, name).package is not None else ""
        raise ConfigError(f"{where}{error}", key=key) from None
    LOADED[found] = Loaded(package, name, module.__name__)
    return found


def check(plugin: type, contract: type) -> None:
    """Hold a class against its contract.

    Raises:
        ConfigError: the first thing that is wrong, with the file, and the nearest valid name of one that is not known.
    """
    problem = _first_problem(plugin, contract)
    if problem is not None:
        raise ConfigError(problem)


@cache
def _first_problem(plugin: type, contract: type) -> str | None:
    """Looked for once: a plug-in is loaded many times in a run, and its class stays as its file has it."""
    return next(_problems(plugin, contract), None)


def _problems(plugin: type, contract: type) -> Iterator[str]:
    where = f"{file_of(plugin)}: {plugin.__name__}"
    hooks = {name for each in contract.__mro__[:-1] for name in vars(each) if name[0] != "_"}
    hints = get_type_hints(contract)
    known = hooks | {name for name in hints if name[0] != "_"}
    for each in plugin.__mro__:
        for name in () if each in contract.__mro__ else _own_names(each):
            if name not in known:
                yield (
                    f"{file_of(each)}: {each.__name__}.{name} is nothing that {contract.__name__} has"
                    f"{did_you_mean(name, known)} (names of its own begin with an underscore)"
                )
    for name in sorted(getattr(plugin, "__abstractmethods__", ())):
        yield f"{where} defines no {name}{_parameters(getattr(contract, name, None))}"
    for name in sorted(known - hooks):
        if not hasattr(plugin, name):
            yield f"{where} does not say its {name}; {contract.__module__}.{contract.__name__} explains it"
    for name in sorted(hooks):
        yield from _hook_problems(where, name, getattr(plugin, name), getattr(contract, name))
    for name, hint in hints.items():
        value = inspect.getattr_static(plugin, name)
        if name[0] != "_" and not hasattr(type(value), "__get__"):
            yield from _type_problems(f"{where}.{name}", value, hint)


def _own_names(each: type) -> list[str]:
    return [name for name in {**vars(each), **vars(each).get("__annotations__", {})} if name[0] != "_"]


def _hook_problems(where: str, name: str, hook: Any, wanted: Any) -> Iterator[str]:
    """It can be called as the contract is: with all arguments, and with those alone that have no default."""
    if hook is wanted or not callable(wanted) or isinstance(wanted, type):
        return
    if not callable(hook):
        yield f"{where}.{name} is {hook!r:.80}, and must be a method {name}{_parameters(wanted)}"
        return
    parameters = inspect.signature(wanted).parameters.values()
    for given in (parameters, [p for p in parameters if p.default is p.empty]):
        by_place = [None for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        by_name = {p.name: None for p in given if p.kind is p.KEYWORD_ONLY}
        try:
            inspect.signature(hook).bind(*by_place, **by_name)
        except TypeError:
            yield f"{where}.{name} takes {_parameters(hook)}, and is called with {_parameters(wanted)}"
            return


def _type_problems(where: str, value: object, hint: Any) -> Iterator[str]:
    hint = get_args(hint)[0] if get_origin(hint) is ClassVar else hint
    try:
        _adapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        yield f"{where} is {value!r:.80}: {error.errors()[0]['msg']}"


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a type that has a config of its own
        return TypeAdapter(hint)


def _parameters(hook: Any) -> str:
    return f"({', '.join(inspect.signature(hook).parameters)})" if callable(hook) else ""


def file_of(plugin: type) -> str:
    """The file of a plug-in's class, as errors name it."""
    try:
        return shown_path(Path(inspect.getfile(plugin)))
    except (TypeError, OSError):  # made in a shell
        return plugin.__module__


def shown_path(path: Path) -> str:
    """A path as errors name it: inside the package from its folder on, else in full."""
    return path.relative_to(PACKAGE_FOLDER.parent).as_posix() if path.is_relative_to(PACKAGE_FOLDER) else str(path)


def checked_options(section: type[S], given: Any, key: str, owner: str = "") -> S:
    """An instance of a plug-in's options, as a config gives them; ``owner`` is the plug-in's name in errors.

    Raises:
        ConfigError: an option or value that it does not have.
    """
    try:
        return section.model_validate(given)
    except ValidationError as error:
        problem, fields = error.errors()[0], list(section.model_fields)
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            kind = f"an option of {owner}" if owner else "one of its options"
            message = f"is not {kind}{did_you_mean(name, fields) if fields else '; it has none'}"
        elif problem["type"] == "value_error":  # says the value itself
            message = str(problem["ctx"]["error"])
        else:
            message = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}, got {problem['input']!r:.80}"
        raise ConfigError(message, key=f"{key}.{name}" if name else key) from None
