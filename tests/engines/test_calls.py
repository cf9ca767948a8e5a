"""What a local step does in Python is counted, never timed."""

import sys
from collections import Counter
from pathlib import Path

from support.rounds import run_round

import atlas_cli
from atlas_cli.wire.ledger import Ledger

OWN = str(Path(atlas_cli.__file__).parent)


def calls(federation):
    """How often each function of atlas is called in a local step after the first."""
    found, steps = Counter(), []

    def count(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(OWN):
            found[frame.f_code.co_name] += 1

    def on_step(step, _):
        steps.append(step)
        sys.setprofile(count if step == 0 else None)

    run_round(federation, list(federation.clients), 1, Ledger(), on_step)
    assert steps == [0, 1]
    return found


def test_more_clients_call_no_layer_more_often(make_federation):
    """Layers, attention and what is attached to them are called once a pass, whoever shares it."""
    training = {"local_steps": 2, "batch_size": 2}
    others = {name: {"task_group": "g", "rank": rank} for name, rank in {"d": 4, "e": 2, "f": 3}.items()}
    few, many = (calls(make_federation(training=training, clients=more)) for more in ({}, others))
    blocks, adapted = 4, 8  # the layers of queries and of values of each block
    for found in (few, many):
        assert found["attend_in_groups"] == blocks
        assert found["add_low_rank"] == adapted
        assert found["attached_parts"] == 2 * 2  # to the clients' half and the server's: begun and ended
    assert sum(many.values()) - sum(few.values()) <= 300 * len(others)  # of 1,331 in all with three clients
