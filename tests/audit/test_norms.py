"""Norms before and after clipping and noise are in the records where a mechanism is, and nowhere else."""

import pytest

from atlas_cli.audit.attack_all import audit
from atlas_cli.audit.evidence import Evidence
from atlas_cli.reports.audit import audit_notes
from atlas_cli.reports.page.report import page

RECORDED = {"audit": {"record": {"rounds": [2]}}, "aggregation": {"method": "ffa", "weights": "uniform"}}
STAYS = {"labels": "client"}
EXAMPLES = {
    "training": {**STAYS, "client_optimizer": {"lr": 0.01}},
    "server": {"rank": 0},
    "privacy": {"examples": {"clip": 0.1, "noise_multiplier": 1.0}},
}


def updates(where):
    return {"training": STAYS, "privacy": {"updates": {"clip": 0.01, "noise_multiplier": 0.5, "where": where}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "mechanism"),
    [(updates("server"), "updates"), (EXAMPLES, "examples"), (updates("client"), "updates")],
    ids=["server", "examples", "client"],
)
def test_they_are_recorded_and_shown(trained, changes, mechanism):
    run = trained(**RECORDED, **changes)
    groups, clients = run.read_lines("metrics.jsonl"), run.read_lines("clients.jsonl")
    assert all("norms" not in line for line in (*groups, *clients) if line["round"] == 0)
    for group in groups[1:]:
        of_round = [line["norms"][mechanism] for line in clients if line["round"] == group["round"]]
        assert len(of_round) == 3
        for name in ("before", "clipped", "sent", "clip_fraction"):
            assert group["norms"][mechanism][name] == pytest.approx(sum(norms[name] for norms in of_round) / 3)
        clip = getattr(Evidence.of_run(run).federation.config.privacy, mechanism).clip
        assert all(n["clipped"] <= min(n["before"], clip) + 1e-6 for n in of_round)
        assert group["norms"][mechanism]["noise_to_signal"] > 0
    found = audit(Evidence.of_run(run), ["length-from-gradients"])
    (only,) = found["norms"]
    assert only == {"round": 2, "task_group": "g", "mechanism": mechanism, **groups[-1]["norms"][mechanism]}
    (note,) = [note for note in audit_notes(found) if note.startswith(f"{mechanism} of g in round 2: norm ")]
    assert "times the signal" in note and "a diagnostic for who runs the experiment" in note
    assert "no epsilon covers them" in page(run)


def test_without_a_mechanism_records_are_as_they_were(trained):
    run = trained(audit={"record": {"rounds": [1]}})
    for name in ("metrics.jsonl", "clients.jsonl"):
        assert "norms" not in (run.path / name).read_text(encoding="utf-8")
    assert audit(Evidence.of_run(run), ["length-from-gradients"])["norms"] == []
    assert "before clipping" not in page(run)
