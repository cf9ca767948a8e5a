"""The early end of a run: its reason is recorded, and what it has come to is left where somebody finds it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from atlas_cli.engines.engine import Engine
from atlas_cli.errors import AtlasError, OutputError, PluginError
from atlas_cli.experiment.adapter_export import export_last_round
from atlas_cli.experiment.end_of_run import engine_figures
from atlas_cli.experiment.run_state import RunCheckpoints
from atlas_cli.federation.federation import Federation
from atlas_cli.plugin_errors import described, plugin_of
from atlas_cli.printable import as_typed
from atlas_cli.reports.page.report import write_report
from atlas_cli.reports.progress import Progress
from atlas_cli.runs.checkpoint import folders
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.manifest import Status, end_manifest
from atlas_cli.runs.seals import INDEX, seals_record


def record_early_end(
    checkpoints: RunCheckpoints, manifest: dict[str, Any], error: BaseException, engine: Engine, last: int | None
) -> dict[str, Any]:
    """Record how a run ended early, with the traceback; the error gets notes that say how to go on.

    Args:
        last: the last round, where training had ended.

    Returns:
        the manifest as it is then.
    """
    files, recording = checkpoints.files, checkpoints.federation.recording
    run = files.run
    interrupted = isinstance(error, KeyboardInterrupt)
    status: Status = "interrupted" if interrupted else "failed"
    what = None if interrupted else described(error)
    figures: dict[str, Any] = {}
    with suppress(Exception):  # an engine that has gone cannot say what it did; the first error is the one to show
        figures = engine_figures(checkpoints.federation, engine)
    with suppress(OutputError):  # on a full disk, too
        checkpoints.write()
    with suppress(OutputError):
        run.log(status if interrupted else f"{status}: {type(error).__name__}: {what}")
        run.log("" if interrupted else "".join(traceback.format_exception(error)))
    with suppress(OutputError):
        if recording is not None:
            files.append(INDEX, recording.new_lines())
        manifest["records"] = seals_record(files.seal())
    ended = end_manifest(manifest, status, what, figures)
    with suppress(OutputError):
        run.write_json("manifest.json", ended)
    if not isinstance(error, AtlasError | KeyboardInterrupt | BrokenPipeError):
        error.add_note(f"the traceback is in {run.path / 'log.txt'}")
    if whole := folders(run):
        done = int(whole[-1].name.removeprefix("round-"))
        kept = f"round {done} is kept"
        if done == last:
            kept = _left_to_write(checkpoints.federation.config.training.rounds, last, ended)
        again = f"atlas train --resume {as_typed(str(run.path))}"
        if isinstance(error, PluginError) or plugin_of(error) is not None:
            error.add_note(f"{kept}; to go on when its code is mended: {again} --changed-code")
        else:
            error.add_note(f"{kept}; to go on: {again}")
    return ended


def leave_results(
    federation: Federation, run: RunDirectory, ended: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """Write what a run that ended in a round leaves besides its checkpoint: adapters of its last whole round, and a
    report.

    Why it ended is what is shown: what cannot be written here is told in log.txt.

    Returns:
        the manifest as it is then, with the seconds that this took.

    Raises:
        KeyboardInterrupt: a signal ended it.
    """
    ended = dict(ended)
    try:
        with telling_the_log(run):
            export_last_round(federation, run, ended, progress.doing)
    finally:  # where a signal ends it, too
        ended = end_manifest(ended, ended["status"], ended["error"])
        with telling_the_log(run):
            run.write_json("manifest.json", ended)
    progress.doing("writing the report")
    with telling_the_log(run):
        write_report(run, ended)
    return ended


@contextmanager
def telling_the_log(run: RunDirectory) -> Iterator[None]:
    """What fails inside, when the reason of a run's end is known, is told in log.txt and hides nothing."""
    try:
        yield
    except Exception as error:
        with suppress(OutputError):
            run.log(f"adapters or report of the last whole round were not written: {type(error).__name__}: {error}")


def _left_to_write(rounds: int, last: int, ended: Mapping[str, Any]) -> str:
    """What a run has done whose training had ended, and what it has not."""
    done = f"all {rounds} rounds are" if last == rounds else f"training ended after round {last} of {rounds}, which is"
    left = "the report is" if ended.get("adapters_of_round") == last else "adapters and the report are"
    return f"{done} kept, and only {left} left to write"
