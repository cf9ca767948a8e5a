"""The parts of report.html, each from the records to escaped HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atlas_cli.reports import audit as audits
from atlas_cli.reports import memory as memory_rows
from atlas_cli.reports import tables
from atlas_cli.reports.escaped import escape
from atlas_cli.reports.plots import MAX_BARS, bytes_svg, loss_svg, memory_svg, metric_svgs
from atlas_cli.reports.summary import (
    Record,
    by_group,
    drops_sentence,
    lowest_sentence,
    means_sentence,
    primary_metric,
    summarise,
)
from atlas_cli.runs.schemas import KINDS
from atlas_cli.units import format_bytes_mb, format_number, format_seconds

MAX_CLIENT_ROWS = 500  # a page of many thousands opens in no browser


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table of plain texts; all cells are escaped."""
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def figure(svg: str, caption: str) -> str:
    """A picture with a caption; ``svg`` is trusted, the caption is escaped."""
    return f'<figure role="img" aria-label="{escape(caption)}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'


def facts(manifest: Record) -> str:
    """Status, time, commit, versions, machine, command."""
    git = manifest.get("git")
    commit = f"{git['commit']}{' with uncommitted changes' if git['dirty'] else ''} ({git['of']})" if git else "none"
    versions = ", ".join(f"{name} {number}" for name, number in manifest.get("versions", {}).items() if number)
    machine = manifest.get("platform", {})
    model = manifest.get("model", {})
    took, unknown = manifest.get("duration_s"), "not known" if manifest.get("ended") else "not ended"
    rows = {
        "status": f"{manifest.get('status')}{': ' + manifest['error'] if manifest.get('error') else ''}",
        "started (UTC)": str(manifest.get("started", "")).split(".")[0].replace("T", " "),
        "took": format_seconds(took) if took is not None else unknown,
        "model": f"{model.get('name')}, weights {model.get('init')}",
        "parameters": _count(model.get("n_parameters")),
        "model sha256": str(model.get("sha256")),
        "seed": str(manifest.get("seed")),
        "device": f"{manifest.get('device')}, {manifest.get('threads')} CPU threads",
        "machine": f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('os')}",
        "commit": commit,
        "versions": versions,
        "command": " ".join(manifest.get("command", [])),
    }
    if len(manifest.get("parts", ())) > 1:
        rows["processes"] = (
            f"{len(manifest['parts'])}, one after the other; device, versions and command are the first's"
        )
    data = [
        (
            group,
            str(d.get("origin")),
            _count(d.get("train")),
            _count(d.get("local_test")),
            _count(d.get("test")),
            _classes(d.get("classes")),
            str(d.get("sha256")),
        )
        for group, d in manifest.get("data", {}).items()
    ]
    shown = definitions(rows) + table(("task group", "data", "train", "local tests", "test", "classes", "sha256"), data)
    return shown + _parts(manifest.get("parts", ()))


def _parts(parts: Sequence[Mapping[str, Any]]) -> str:
    """A row a process, where a run had several."""
    rows = [
        (
            "start" if part["after_round"] is None else f"round {part['after_round']}",
            str(part["started"]).split(".")[0].replace("T", " "),
            format_seconds(part["duration_s"]) if part["duration_s"] is not None else "not known",
            str(part["status"]),
            f"{part['device']}, {part['threads']} CPU threads",
            ", ".join(f"{name} {number}" for name, number in part["versions"].items() if number),
            " ".join(part["command"]),
        )
        for part in parts
    ]
    headings = ("gone on after", "started (UTC)", "took", "ended", "device", "versions", "command")
    return table(headings, rows) if len(rows) > 1 else ""


def audit(found: Record) -> str:
    """What attacks on the recorded messages recover."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in audits.audit_notes(found))
    return table(audits.HEADINGS, audits.rows(found)) + f"<ul>{notes}</ul>"


def definitions(rows: Mapping[str, str]) -> str:
    """Name and value pairs."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>\n" for k, v in rows.items()) + "</dl>"


def settings(config: Mapping[str, Any]) -> str:
    """The resolved config, flattened to dotted keys; keys without a value are left out."""
    return definitions({key: str(value) for key, value in _flat(config) if value not in (None, {}, [])})


def result(metrics: Sequence[Record], clients: Sequence[Record], data: Mapping[str, Record]) -> str:
    """The final table, and loss and metric by round."""
    pictures = [figure(loss_svg(metrics), "Mean training loss by round and task group")]
    pictures += [
        figure(svg, f"Test {name.replace('_', ' ')} by round; round 0 is before training")
        for name, svg in metric_svgs(metrics)
    ]
    summaries = summarise(metrics, clients, data)
    lowest = lowest_sentence({s.metric: s.better for s in summaries if s.metric})
    said = (means_sentence(summaries), drops_sentence(summaries), lowest)
    drops = "".join(f"<p>{escape(sentence)}</p>" for sentence in said if sentence)
    notes = "".join(
        f"<li>{escape(f'{name}: {note}')}</li>" for name, facts in data.items() for note in facts.get("notes", ())
    )
    return (
        table(tables.HEADINGS, [tables.cells(s) for s in summaries])
        + drops
        + (f"<ul>{notes}</ul>" if notes else "")
        + f'<div class="pair">{"".join(pictures)}</div>'
    )


def ledger(messages: Sequence[Record]) -> str:
    """Bytes by kind and direction, and whether the tensor data is as long as the closed form says."""
    sums: dict[tuple[str, str], list[int]] = {}
    unchecked: set[tuple[str, str]] = set()
    for row in messages:
        key = row["direction"], row["kind"]
        line = sums.setdefault(key, [0, 0, 0, 0, 0])
        formula = row["closed_form_bytes"]
        if formula is None:
            unchecked.add(key)
        wrong = formula is not None and formula != row["payload_bytes"]
        for i, n in enumerate((row["messages"], row["bytes"], row["payload_bytes"], formula or 0, int(wrong))):
            line[i] += n
    rows = []
    for key, (count, serialised, payload, formula, wrong) in sorted(
        sums.items(), key=lambda item: (item[0][0] == "down", KINDS.index(item[0][1]))
    ):
        verdict = "no formula" if key in unchecked else f"{wrong} lines differ" if wrong else "equal"
        expected = "n/a" if key in unchecked else f"{formula:,}"
        rows.append(
            (
                key[1],
                key[0],
                f"{count:,}",
                format_bytes_mb(serialised),
                f"{serialised:,}",
                f"{payload:,}",
                expected,
                verdict,
            )
        )
    headings = ("kind", "direction", "messages", "serialised", "bytes", "tensor bytes", "closed form", "check")
    return figure(bytes_svg(messages), "Serialised bytes by kind and direction") + table(headings, rows)


def memory(record: Record, peak: int | None) -> str:
    """Memory by client beside the server and the references; ``peak`` is that of the whole process."""
    svg, note = memory_svg(record)
    rows = [(row.label, *memory_rows.cells(row), row.how) for row in memory_rows.holders(record, MAX_BARS)]
    headings = ("holder", *(f"{part}, MiB" for part in [*memory_rows.PARTS.values(), "total"]), "how")
    return (
        figure(svg, f"Memory by holder and part. {note}".strip())
        + table(headings, rows)
        + "".join(f"<p>{escape(remark[0].upper() + remark[1:])}.</p>" for remark in memory_rows.remarks(record, peak))
    )


def clients(records: Sequence[Record], config: Mapping[str, Any], metrics: Sequence[Record]) -> str:
    """A row a client: rank, examples, last loss, local test, hash check; folded away when there are many."""
    by_client: dict[str, list[Record]] = {}
    for row in records:
        by_client.setdefault(row["client"], []).append(row)
    primary = {group: primary_metric(rows) for group, rows in by_group(metrics).items()}
    first = list(by_client.items())[:MAX_CLIENT_ROWS]
    rows = [_client_row(name, lines, rank_of(name, config), primary) for name, lines in first]
    headings = ("client", "task group", "rank", "rounds", "examples", "last loss", "local test", "up", "down")
    return _folded(table(headings, rows), len(by_client), "clients.jsonl")


def _folded(shown: str, count: int, file: str, *, always: bool = False) -> str:
    """A table of clients, folded away when there are many; what it leaves out, and where that is, is said before it."""
    if count <= MAX_BARS and not always:
        return shown
    left_out = f"; the first {MAX_CLIENT_ROWS:,} are shown, {file} has all" if count > MAX_CLIENT_ROWS else ""
    return f"<details><summary>{count:,} clients{left_out}</summary>{shown}</details>"


def clusters(records: Sequence[Record]) -> str:
    """A row a clustering, and who is in which cluster at the end."""
    rows = []
    for found in records:
        sizes = Counter(found["assignment"].values())
        agreement = found["agreement"]
        figures = ("ari", "shuffled_ari", "nmi", "shuffled_nmi")
        agreed = [format_number(agreement[name]) if agreement else "n/a" for name in figures]
        held = ", ".join(f"{name}: {size}" for name, size in sorted(sizes.items()))
        rows.append((str(found["round"]), found["by"], held, *agreed, str(len(found["moved"]))))
    headings = ("before round", "by", "clients by cluster", "ARI", "shuffled up to", "NMI", "shuffled up to", "moved")
    last = sorted(records[-1]["assignment"].items(), key=lambda item: item[1])
    shown = table(("client", "cluster"), last[:MAX_CLIENT_ROWS])
    return table(headings, rows) + _folded(shown, len(last), "clusters.jsonl", always=True)


def proof(manifest: Record, client_records: Sequence[Record]) -> str:
    """Split against unsplit, and what clients hold against what was delivered to them."""
    checked = [r for r in client_records if r["held_sha256"] is not None and r["delivered_sha256"] is not None]
    wrong = [r for r in checked if r["held_sha256"] != r["delivered_sha256"]]
    rows = {"adapters held = delivered": f"{len(checked) - len(wrong)} of {len(checked)} hashes are equal"}
    if wrong:
        rows["not equal"] = ", ".join(f"{r['client']} in round {r['round']}" for r in wrong[:MAX_BARS])
    if "base_unchanged" in manifest:
        rows["frozen weights"] = "unchanged by hash" if manifest["base_unchanged"] else "CHANGED during the run"
    verify = manifest.get("verify")
    if not verify:
        return definitions(rows) + "<p>Split against unsplit: not checked in this run.</p>"
    headings = (
        "split against unsplit",
        "examples",
        "padding tokens",
        "loss differs by",
        "gradients differ by",
        "within",
        "without padding",
    )
    return definitions(rows) + table(headings, [_check_row(group, check) for group, check in verify.items()])


def _check_row(group: str, check: Mapping[str, Any]) -> tuple[str, ...]:
    figures = (f"{check[name]:.2g}" for name in ("loss_difference", "gradient_difference", "tolerance"))
    packed = [check[f"packed_{of}_difference"] for of in ("loss", "gradient") if f"packed_{of}_difference" in check]
    without = ", ".join(f"{difference:.2g}" for difference in packed) or "not trained so"
    return (group, str(check["examples"]), str(check["padding_tokens"]), *figures, without)


def rank_of(client: str, config: Mapping[str, Any]) -> str:
    """A client's rank as the config has it; ``n/a`` for a client that the config does not name."""
    named = config.get("clients", {})
    template = client.rpartition("-")[0]
    entry = named.get(client) or named.get(template)
    if entry is None:
        return "n/a"
    rank = entry.get("rank") or config.get("lora", {}).get("rank")
    return ", ".join(f"{layer}: {r}" for layer, r in rank.items()) if isinstance(rank, dict) else str(rank)


def _client_row(name: str, lines: Sequence[Record], rank: str, primary: Mapping[str, str | None]) -> tuple[str, ...]:
    losses = [line["train_loss"] for line in lines if line["train_loss"] is not None]
    tests = [line["local_test"] for line in lines if line["local_test"]]
    metric = primary.get(lines[-1]["task_group"]) if tests else None
    return (
        name,
        lines[-1]["task_group"],
        rank,
        str(sum(line["participated"] for line in lines)),
        f"{sum(line['examples'] for line in lines):,}",
        format_number(losses[-1] if losses else None),
        f"{metric} {format_number(tests[-1].get(metric))}" if metric else "n/a",
        format_bytes_mb(sum(line["bytes_up"] for line in lines)),
        format_bytes_mb(sum(line["bytes_down"] for line in lines)),
    )


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _count(n: int | None) -> str:
    return "n/a" if n is None else f"{n:,}"


def _classes(classes: Any) -> str:
    return ", ".join(map(str, classes)) if isinstance(classes, (list, tuple)) else str(classes)
