"""The local steps of a round by themselves, without merge and delivery."""

import pytest

from atlas_cli.engines.in_process import local_steps
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.parties import exchange as messages


def run_round(federation, cohort, round_number, ledger, on_step):
    """For the clients of ``cohort``, and the server's end of it; what each client did."""
    attendance = Attendance(federation, cohort, round_number)
    attendance.begin()
    done = local_steps(federation, attendance, ledger, on_step)
    federation.server.finish_round(attendance.present)
    return done


def exchange(server, client, batch, round_number, step, ledger):
    """All messages of a client's local step; the gradient message as the client decodes it, and the loss."""
    up = client.forward_batch(batch, round_number, step)
    down, loss = messages.exchange(server, client, batch, up, ledger)
    return client.wire.decode(down), loss


def trained(federation):
    """Adapters and heads of all parties, by name."""
    states = {name: client.adapters.state() for name, client in federation.clients.items()}
    heads = {name: client.head.state_dict() for name, client in federation.clients.items() if client.head is not None}
    for name, group in federation.server.groups.items():
        states[f"server {name}"] = group.adapters.state()
        heads[f"server {name}"] = group.head.state_dict() if group.head is not None else {}
    return {f"{who} {name}": t for of in (states, heads) for who, state in of.items() for name, t in state.items()}


def assert_close(ours, theirs):
    """Equal to rounding in float32."""
    assert ours.keys() == theirs.keys() and len(ours) > 0
    for name, tensor in ours.items():
        assert float((tensor - theirs[name]).abs().max()) <= 1e-6 * max(1.0, float(theirs[name].abs().max())), name


def assert_same_metrics(ours, theirs):
    """Losses and scores of a recorder's rounds to rounding; bytes, and who did how much, exactly."""
    exact = ("round", "task_group", "examples", "tokens", "bytes_up", "bytes_down", "participants", "dropped")
    for a, b in zip(ours, theirs, strict=True):
        assert all(a[key] == b[key] for key in exact)
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-6)
        assert a["test"] == pytest.approx(b["test"], abs=1e-5)
