"""The end of a run: the figures of its engine, and the reason for an early end."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from atlas_cli.engines.engine import Engine
from atlas_cli.errors import AtlasError, OutputError, PluginError
from atlas_cli.experiment.run_state import RunCheckpoints
from atlas_cli.federation.attendance import failed_before
from atlas_cli.federation.federation import Federation
from atlas_cli.models.frozen.kernel_order import prepacked_record
from atlas_cli.planning.cohort import crashing
from atlas_cli.plugin_errors import described, plugin_of
from atlas_cli.printable import listed
from atlas_cli.runs.checkpoint import folders
from atlas_cli.runs.manifest import Status, end_manifest
from atlas_cli.runs.record_files import RecordFiles
from atlas_cli.runs.seals import INDEX, seals_record


def engine_figures(federation: Federation, engine: Engine) -> dict[str, Any]:
    """Figures of caches, stores and engine in this process, by component."""
    offload = federation.offload
    kept = {
        "prefix_cache": federation.prefix_cache,
        "offload": None if offload is None else offload.store,
        "kept_texts": federation.kept_texts,
        "untrained_logits": federation.untrained,
    }
    records: dict[str, Any] = {name: each.record() for name, each in kept.items() if each is not None}
    records["prepack"] = prepacked_record([federation.base, *federation.bases.values()])
    records["ray"] = engine.record()
    return {name: each for name, each in records.items() if each is not None}


def missed_crashes(federation: Federation, metrics: Iterable[Mapping[str, Any]]) -> str | None:
    """Which clients of ``faults.crash_at`` never failed in a run of these lines of metrics.jsonl; None if all did."""
    expected = {
        client: failed_before(crash.step)
        for client, crash in crashing(federation.config, federation.plan.clients).items()
    }
    failed = {client for line in metrics for client, why in line["dropped"].items() if why == expected.get(client)}
    if not (left := [client for client in expected if client not in failed]):
        return None
    where = "in its round" if federation.under_way is None else "from a start in its round"
    return f"faults.crash_at met nobody of {listed(left)}: none of them came to its step {where}"


def record_early_end(
    files: RecordFiles, manifest: dict[str, Any], checkpoints: RunCheckpoints, error: BaseException, engine: Engine
) -> dict[str, Any]:
    """Record how a run ended early, with the traceback; the error gets notes that say how to go on.

    Returns the manifest as it is then.
    """
    run, recording = files.run, checkpoints.federation.recording
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
        again = f"atlas train --resume {shlex.quote(str(run.path))}"
        if isinstance(error, PluginError) or plugin_of(error) is not None:
            error.add_note(f"round {done} is kept; to go on when its code is mended: {again} --changed-code")
        else:
            error.add_note(f"round {done} is kept; to go on: {again}")
    return ended
