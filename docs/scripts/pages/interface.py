"""The Python interface, from the docstrings of what ``atlas_cli`` exports."""

from __future__ import annotations

import inspect
from typing import Any

import atlas_cli
from pages.prose import NOTE, cell, markdown, summary, table


def pages() -> dict[str, str]:
    """One page."""
    names = sorted(atlas_cli.__all__, key=str.lower)
    rows = [(f"[`{name}`](#{name.lower()})", cell(summary(_of(name).__doc__))) for name in names]
    head = [
        "# Python interface\n",
        NOTE,
        "All of it is imported from `atlas_cli`, and torch is loaded when it is first used.",
        "[From a notebook](../guides/notebook.md) shows it at work.\n",
        table(("name", "what it is"), rows),
    ]
    return {"python.md": "\n".join(head) + "\n" + "\n".join(_section(name, _of(name)) for name in names)}


def _of(name: str) -> Any:
    return getattr(atlas_cli, name)


def _section(name: str, thing: Any) -> str:
    parts = [f"## {name}\n", f"```python\n{name}{_signature(thing)}\n```\n", markdown(thing.__doc__)]
    if inspect.isclass(thing):
        for method, function in vars(thing).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                parts += [
                    f"### {name}.{method}\n",
                    f"```python\n{method}{_signature(function)}\n```\n",
                    markdown(function.__doc__),
                ]
    return "\n".join(parts)


def _signature(thing: Any) -> str:
    """A signature, one argument a line where it is long."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return "(...)"
    arguments: list[str] = []
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in arguments:
            arguments.append("*")
        kind = "" if each.annotation is each.empty else f": {each.annotation}"
        default = "..." if callable(each.default) else repr(each.default)
        arguments.append(each.name + kind + ("" if each.default is each.empty else f" = {default}"))
    returns = "" if signature.return_annotation is signature.empty else f" -> {signature.return_annotation}"
    if len(text := f"({', '.join(arguments)}){returns}") <= 90:
        return text
    return "(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")" + returns
