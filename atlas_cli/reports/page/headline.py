"""What is read in ten seconds: the result, its cost and the proof, each in a few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from atlas_cli.printable import as_typed
from atlas_cli.reports.escaped import escape
from atlas_cli.reports.page.elements import paragraph
from atlas_cli.reports.page.intervals import interval, largest_class
from atlas_cli.reports.page.proof import verdict
from atlas_cli.reports.page.records import RunRecords, counted
from atlas_cli.reports.summary import GroupSummary
from atlas_cli.units import format_bytes_mb, format_bytes_mib, format_number, format_seconds

SHOWN = 6  # task groups that the headline names
MERGING = ("split-federated", "federated")  # modes in which adapters are merged


def headline(records: RunRecords) -> str:
    """The three of them, side by side where there is room."""
    if not records.metrics:
        return ""
    holds, proof = verdict(records)
    state = {True: "good", False: "bad", None: ""}[holds]
    parts = [_part("Result", _result(records)), _part("Cost", map(paragraph, _cost(records)))]
    parts.append(_part("Proof", map(paragraph, proof), state))
    return f'{paragraph(_what(records))}<div class="headline">{"".join(parts)}</div>'


def _what(records: RunRecords) -> str:
    """The experiment in a sentence."""
    model, config = records.manifest.get("model") or {}, records.config
    clients = sum(entry.get("count") or 1 for entry in (config.get("clients") or {}).values())
    mode = config.get("mode", "split-federated")
    cut = f", cut after block {model['split_layer']} of {model['layers']}" if model.get("split_layer") else ""
    where = cut if mode == "split-federated" else f" ({mode})"
    method = (config.get("aggregation") or {}).get("method") if mode in MERGING else None
    merged = f", merged by {method}" if method else ""
    who = f"{counted(clients, 'client')} in {counted(len(records.groups), 'task group')}"
    early = records.manifest.get("early_stop")
    ended = f" of {early['of']}, until {early['why']}" if early else ""
    if stop := records.manifest.get("budget_stop"):
        ended = f" of {stop['of']} (privacy budget: {stop['why']})"
    rounds = f"{counted(records.done or 0, 'round')}{ended}"
    return f"{who} trained adapters of {model.get('name')}{where}{merged}, for {rounds}."


def unfinished(records: RunRecords, written: str | None) -> str:
    """How far a run came that did not finish, and what to do; "" for one that did.

    Args:
        written: when, if the page is written again while the run goes on, from metrics alone.
    """
    status = str(records.manifest.get("status"))
    if status == "finished":
        return ""
    rounds = (records.config.get("training") or {}).get("rounds", "?")
    how_far = "before its first round" if records.done is None else f"after round {records.done} of {rounds}"
    if records.going_on and status == "running":
        return _going_on(records, how_far, written)
    why = f": {records.manifest['error']}" if records.manifest.get("error") else ""
    text = f"{'Not finished' if status == 'running' else status.capitalize()} {how_far}{why}"
    of_round = records.manifest.get("adapters_of_round")
    kept = f"adapters/ is of round {of_round}" if of_round is not None else "there are no trained adapters"
    go_on = f"atlas train --resume {as_typed(records.path)}"
    if records.done == rounds:
        kept = "adapters/ is of the last" if of_round == rounds else kept
        return _banner(f"{text}. All rounds are done; {kept}. To write what is left:", go_on)
    return _banner(f"{text}. All figures are of the rounds until then; {kept}. To go on:", go_on)


def _going_on(records: RunRecords, how_far: str, written: str | None) -> str:
    if written is None:
        return _banner(f"Going on {how_far}.", kind="going-on")
    text = (
        f"Going on {how_far}, as of {written}; if this time stays as it is, the run was killed. This page loads itself"
    )
    command = f"atlas report {as_typed(records.path)} --output now.html"
    return _banner(f"{text} again. Figures by client come when the run ends, or at once:", command, "going-on")


def _banner(text: str, command: str = "", kind: str = "unfinished") -> str:
    code = f" <code>{escape(command)}</code>" if command else ""
    return f'<p class="banner {kind}" role="status">{escape(text)}{code}</p>\n'


def _part(title: str, lines: Iterable[str], state: str = "") -> str:
    return f'<section class="card {state}"><h2>{title}</h2>{"".join(lines)}</section>'


def _result(records: RunRecords) -> list[str]:
    lines = [_group_result(records, summary) for summary in records.summaries[:SHOWN]]
    if len(records.summaries) > SHOWN:
        more = counted(len(records.summaries) - SHOWN, "more task group")
        lines.append(paragraph(f"{more} in the table of all metrics."))
    return lines


def _group_result(records: RunRecords, found: GroupSummary) -> str:
    """``spam: accuracy 0.970``, and beside it ``95 %: 0.951 to 0.982; before training 0.850``, and who never learns."""
    if found.metric is None or found.after is None:
        return paragraph(f"{found.task_group}: nothing was evaluated.")
    row = next(row for row in reversed(records.groups[found.task_group]) if row["test"])
    ends = interval(row, found.metric)
    beside = [f"95 %: {ends[0]:.3f} to {ends[1]:.3f}"] if ends else []
    if found.before is not None and row["round"]:
        before = format_number(found.before)
        within = ends is not None and ends[0] <= found.before <= ends[1]
        beside.append(f"before training {before}{', within this interval' if within else ''}")
    if found.chosen_on == "validation":
        beside.append(f"best on the validation part in round {found.best_round}: {format_number(found.best)}")
    if (share := largest_class(row, found.metric)) is not None:
        beside.append(f"always the largest class: {format_number(share)}")
    name = found.metric.replace("_", " ")
    said = f"<b>{escape(found.task_group)}: {escape(name)} {format_number(found.after)}</b>"
    return f"<p>{said} <span>{escape('; '.join(beside))}</span></p>"


def _cost(records: RunRecords) -> list[str]:
    done = records.done or 0
    rounds = [row for row in records.metrics if row["round"] > 0]
    up, down, setup = (
        sum(row["bytes_up"] for row in rounds),
        sum(row["bytes_down"] for row in rounds),
        sum(row["bytes_up"] + row["bytes_down"] for row in records.metrics if row["round"] == 0),
    )
    lines = [
        f"All clients together sent {format_bytes_mb(up)} and got {format_bytes_mb(down)} in {counted(done, 'round')}."
    ]
    if setup:
        lines.append(f"Once, before the first round: {format_bytes_mb(setup)}.")
    if records.memory is not None:
        lines += [said] if (said := _memory(records.memory)) else []
    wall = f"{format_seconds(sum(row['seconds'] for row in records.metrics))} in local steps and evaluation"
    if (whole := records.manifest.get("duration_s")) is not None:
        wall += f", {format_seconds(whole)} from start to end,"
    simulated = records.simulated
    energy = f", {simulated[1]:,.3g} J" if simulated and simulated[1] is not None else ""
    clock = f"; on the devices {format_seconds(simulated[0])} (virtual clock){energy}" if simulated else ""
    lines.append(f"Time: {wall} on this machine{clock}.")
    return lines


def _memory(memory: Mapping[str, Any]) -> str:
    clients = memory["clients"]
    if not clients:
        return ""
    most = max(clients, key=lambda name: clients[name]["total"])
    whole, lora = (memory["references"][way]["total"] for way in ("full_fine_tuning", "unsplit_lora"))
    return (
        f"Tensors of a client: {format_bytes_mib(clients[most]['total'])} at most ({most}), instead of "
        f"{format_bytes_mib(whole)} for full fine-tuning or {format_bytes_mib(lora)} for LoRA without a split."
    )
