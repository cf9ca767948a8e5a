"""The end of a run whose training has ended: adapters, the proof that the base is unchanged, manifest and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atlas_cli.engines.engine import Engine
from atlas_cli.experiment.adapter_export import export_adapters, export_best
from atlas_cli.experiment.manifest_facts import best_facts
from atlas_cli.experiment.run_budget import RunBudget
from atlas_cli.experiment.run_state import RunCheckpoints
from atlas_cli.federation.attendance import failed_before
from atlas_cli.federation.federation import Federation
from atlas_cli.models.frozen.cast import cast_error, is_unchanged
from atlas_cli.models.frozen.kernel_order import prepacked_error, prepacked_record
from atlas_cli.planning.cohort import crashing
from atlas_cli.printable import listed
from atlas_cli.reports.page.report import write_report
from atlas_cli.reports.progress import Progress
from atlas_cli.reports.summary import Record
from atlas_cli.runs.manifest import end_manifest
from atlas_cli.runs.seals import seals_record


def end_run(
    checkpoints: RunCheckpoints,
    manifest: dict[str, Any],
    metrics: Sequence[Record],
    last: int,
    progress: Progress,
    engine: Engine,
    budget: RunBudget,
) -> dict[str, Any]:
    """Write what a run leaves when its training has ended; "finished" is written last.

    It may be stopped anywhere: adapters are swapped in as a whole, and resuming the run does it all again.

    Args:
        manifest: of the run; it is told of each part once that is written.
        metrics: the lines of all rounds.
        last: the last round.

    Returns:
        the manifest as it ends.
    """
    federation, run, best = checkpoints.federation, checkpoints.files.run, checkpoints.state.best
    export_adapters(federation, run, progress.doing)
    manifest["adapters_of_round"] = last
    manifest["best"] = best_facts(run, export_best(federation, run, best, progress.doing), last)
    progress.doing("comparing the frozen weights with what they were")
    if text := missed_crashes(federation, metrics):
        progress.note(f"warning: {text}")
    rounds = federation.config.training.rounds
    if (stop := budget.why(last)) is not None:
        manifest["budget_stop"] = stop
    elif last < rounds:
        manifest["early_stop"] = {"after_round": last, "of": rounds, "why": best.sentence()}
    manifest["base_unchanged"] = _unchanged(federation) and engine.unchanged()
    if federation.recording is not None:
        manifest["recording"] = federation.recording.record()
    progress.doing("writing the report")
    manifest["privacy"] |= budget.record()
    manifest["privacy"]["epsilon"] = federation.protection.figures(last)
    manifest["records"] = seals_record(checkpoints.files.seal())
    ended = end_manifest(manifest, "finished", engine=engine_figures(federation, engine))
    write_report(run, ended)
    run.write_json("manifest.json", ended)
    run.log("finished")
    progress.stop()
    return ended


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
    if federation.graphs is not None and federation.server.graphs is not None:
        records["cuda_graphs"] = {"clients": federation.graphs.record(), "server": federation.server.graphs.record()}
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


def _unchanged(federation: Federation) -> bool:
    """Whether the frozen weights are what they were, those that clients hold in a dtype of their own as well."""
    base, bases = federation.base, federation.bases.values()
    copied = all(cast_error(base, own) == 0 for own in bases) and prepacked_error([base, *bases]) == 0
    return copied and is_unchanged(base)
