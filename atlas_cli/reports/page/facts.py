"""What the run was: model, data, machine, versions, command, and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atlas_cli.config.flat import flat
from atlas_cli.reports.page.elements import Cell, definitions, figures, folded, table, words
from atlas_cli.units import format_seconds


def facts(manifest: Mapping[str, Any]) -> str:
    """Status, time, commit, versions, machine, command, and the data of every task group."""
    git = manifest.get("git")
    commit = f"{git['commit']}{' with uncommitted changes' if git['dirty'] else ''} ({git['of']})" if git else "none"
    machine, model = manifest.get("platform", {}), manifest.get("model", {})
    took, unknown = manifest.get("duration_s"), "not known" if manifest.get("ended") else "not ended"
    rows = {
        "status": f"{manifest.get('status')}{': ' + manifest['error'] if manifest.get('error') else ''}",
        "started (UTC)": _time(manifest.get("started", "")),
        "took": format_seconds(took) if took is not None else unknown,
        "model": f"{model.get('name')}, weights {model.get('init')}",
        "parameters": _count(model.get("n_parameters")),
        "model sha256": str(model.get("sha256")),
        "seed": str(manifest.get("seed")),
        "device": _device(manifest),
        "machine": f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('os')}",
        "commit": commit,
        "versions": _versions(manifest.get("versions", {})),
        "command": " ".join(manifest.get("command", [])),
    }
    parts = manifest.get("parts", ())
    if len(parts) > 1:
        rows["processes"] = f"{len(parts)}, one after the other; device, versions and command are the first's"
    changed = [
        f"after round {p['after_round']}: {', '.join(p['changed_code'])}" for p in parts if p.get("changed_code")
    ]
    if changed:
        rows["changed code"] = f"{'; '.join(changed)}; rounds before it were computed with what these files were"
    return definitions(rows) + _data(manifest.get("data", {})) + _parts(parts)


def _data(data: Mapping[str, Mapping[str, Any]]) -> str:
    columns = [words("task group"), words("data"), *map(figures, ("train", "local tests", "test"))]
    columns += [words("classes"), words("sha256")]
    rows = [
        (
            group,
            str(d.get("origin")),
            *(d.get(part) for part in ("train", "local_test", "test")),
            _classes(d),
            d.get("sha256"),
        )
        for group, d in data.items()
    ]
    return table(columns, rows, "Data: examples by part")


def _parts(parts: Sequence[Mapping[str, Any]]) -> str:
    """A row a process, where a run had several."""
    rows: list[tuple[Cell, ...]] = [
        (
            "start" if part["after_round"] is None else f"round {part['after_round']}",
            _time(part["started"]),
            format_seconds(part["duration_s"]) if part["duration_s"] is not None else "not known",
            str(part["status"]),
            _device(part),
            _versions(part["versions"]),
            " ".join(part["command"]),
        )
        for part in parts
    ]
    names = ("gone on after", "started (UTC)", "took", "ended", "device", "versions", "command")
    return table([words(name) for name in names], rows, "Processes of this run") if len(rows) > 1 else ""


def settings(config: Mapping[str, Any]) -> str:
    """The resolved config, flattened to dotted keys; keys without a value are left out."""
    found = {key: str(value) for key, value in flat(config).items() if value not in (None, {}, [])}
    return folded(f"{len(found)} settings; config.yaml repeats the run", definitions(found)) if found else ""


def _device(process: Mapping[str, Any]) -> str:
    threads = process.get("threads")
    return f"{process.get('device')}, {threads} CPU thread{'' if threads == 1 else 's'}"


def _time(stamp: Any) -> str:
    return str(stamp).split(".")[0].replace("T", " ")


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items() if number)


def _count(n: int | None) -> str:
    return "n/a" if n is None else f"{n:,}"


def _classes(facts: Mapping[str, Any]) -> str:
    classes = facts.get("classes")
    return ", ".join(map(str, classes)) if isinstance(classes, (list, tuple)) else str(classes)
