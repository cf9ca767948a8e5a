"""``atlas init --example NAME``: an example config and the small data that it reads, copied to be changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from atlas_cli.config.examples import Example
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.strict_yaml import load_file
from atlas_cli.errors import ConfigError, OutputError


def copy_example(example: Example, target: Path) -> list[Path]:
    """Copy an example's config to ``target``, and its data to where it is found from there; return what was written.

    Nothing is written if anything else is in the place of one of the files.

    Raises:
        ConfigError: a file is there already.
        OutputError: a file cannot be written.
    """
    text = example.path.read_text(encoding="utf-8").replace(f"configs/{example.path.name}", target.as_posix())
    wanted = {target: text.encode("utf-8")}
    for file in _data_of(example):
        wanted[target.parent / file.relative_to(example.path.parent)] = file.read_bytes()
    alike = {path for path, content in wanted.items() if path != target and _holds(path, content)}
    for path in wanted.keys() - alike:
        if path.exists():
            raise ConfigError("exists already and is not overwritten; choose another --out", where=str(path))
    written = [path for path in wanted if path not in alike]
    for path in written:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as sink:
                sink.write(wanted[path])
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    return written


def _data_of(example: Example) -> Iterator[Path]:
    """The files beside an example that its config names, or that are in a folder that it names."""
    config = ExperimentConfig.model_validate(load_file(example.path).data)
    named = [config.model.name]
    named += [
        name for group in config.task_groups.values() if group.data.source == "files" for name in group.data.location
    ]
    named += [trace.trace for device in config.devices.values() for trace in device.traces.values()]
    for path in (example.path.parent / name for name in named):
        yield from (file for file in (path, *sorted(path.rglob("*"))) if file.is_file())


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
