"""Clients that are put away between their rounds: the same run bit for bit, in bounded memory, and never read stale."""

import os
import stat
from types import SimpleNamespace

import pytest
import torch
from support.merging import asked
from support.slow import slow_but

from atlas_cli.errors import AtlasError, OutputError
from atlas_cli.experiment.memory_record import reference_memory
from atlas_cli.experiment.recorder import Recorder
from atlas_cli.experiment.round_loop import set_up, train
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.federation.client_state.base_changes import changes_by_path, named_changes
from atlas_cli.hashing import sha256_tensors
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.storage import tensor_files
from atlas_cli.storage.scratch_folders import OFFLOAD
from atlas_cli.storage.tensor_files import TensorFiles
from atlas_cli.storage.tensor_store import TensorStore

SMALL = {"rounds": 3, "local_steps": 2, "batch_size": 2, "cohort": 0.5}
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
CASES = {
    "delta-svd": {"aggregation": {"method": "delta-svd"}},
    "moments kept": {"aggregation": {"method": "fedsa"}},
    "control variates": {
        "aggregation": {"method": "scaffold"},
        "faults": {"crash_at": {"b-1": {"round": 2, "step": 1}}},
        "training": {"client_optimizer": SGD},
    },
    "control variates, clusters": {
        "aggregation": {"method": "scaffold"},
        "clustering": {"by": "random", "k": 2, "every": 2},
        "mode": "federated",
    },
    "nothing merged": {"aggregation": {"method": "none"}, "training": {"client_optimizer": SGD}},
    "one factor in turn": {
        "aggregation": {"method": "rolora"},
        "faults": {"crash_at": {"b-1": {"round": 2, "step": 1}}},
        "training": {"client_optimizer": SGD},
    },
    "one factor in turn, clusters": {
        "aggregation": {"method": "rolora"},
        "clustering": {"by": "random", "k": 2, "every": 2},
        "mode": "federated",
    },
    "components in turn": {
        "aggregation": {"method": "fed-plora"},
        "faults": {"crash_at": {"b-1": {"round": 2, "step": 1}}},
    },
    "components in turn, clusters": {
        "aggregation": {"method": "fed-plora"},
        "clustering": {"by": "random", "k": 2, "every": 2},
        "mode": "federated",
    },
    "heads in turn": {
        "aggregation": asked("ravan"),
        "faults": {"crash_at": {"b-1": {"round": 2, "step": 1}}},
    },
    "changed base": {"aggregation": {"method": "flora"}},
    "ranks that shrink": {"aggregation": {"method": "hetlora", "options": {"prune": 0.5}}},
    "heads on clients": {"training": {"labels": "client"}},
    "groups with momentum": {
        "aggregation": {"method": "delta-svd", "optimizer": {"name": "yogi", "lr": 1e-3, "second": "row-column"}},
        "training": {"labels": "client"},
        "faults": {"crash_at": {"b-1": {"round": 2, "step": 1}}},
    },
    "pulled back": {
        "training": {"drift": {"name": "fedprox", "mu": 0.5}},
        "faults": {"crash_at": {"b-1": {"round": 2, "step": 1}}},
    },
    "shared gradients": {
        "aggregation": {"method": "delta-svd"},
        "training": {"drift": {"name": "scaffold"}},
        "faults": {"crash_at": {"b-1": {"round": 2, "step": 1}}},
    },
    "coded both ways": {
        "wire": {"adapters": {"codec": "int4", "feedback": True}, "deliveries": {"codec": "int8"}},
        "faults": {"crash_at": {"b-1": {"round": 2, "step": 1}}},
        "training": {"labels": "client"},
    },
    "unsplit": {"mode": "federated"},
    "clusters": {"clustering": {"by": "random", "k": 2, "every": 2}},
    "cuts": {"clients": {"a": {"split_layer": 3}}},
    "dropped": {"faults": {"drop": 0.3, "crash_at": {"b-1": {"round": 2, "step": 1}}}, "training": {"cohort": 1.0}},
}


STATEFUL = [case for case in CASES if case.startswith("control variates")]


@pytest.fixture
def pair(make_config, tmp_path):
    """Configs of one experiment of six clients, without and with a store that keeps next to nothing in memory."""

    def make(changes, memory="1 KiB"):
        clients = {n: {"count": 2, **changes.get("clients", {}).get(n, {})} for n in "abc"}
        training = {**SMALL, **changes.get("training", {})}
        both = {**changes, "clients": clients, "training": training, "output": {"dir": str(tmp_path)}}
        return make_config(**both), make_config(**both, engine={"offload": memory})

    return make


@pytest.fixture
def built():
    """``build``, with its files removed after the test."""
    made = []

    def make(config):
        made.append(build(config))
        return made[-1]

    yield make
    for federation in made:
        if federation.offload is not None:
            federation.offload.store.close()


def run(made, done=None, began_with=None):
    """Records and, by round, checkpoints of a run; what it was at its end."""
    state, saved = RunState(made), []
    if began_with is not None:
        state.restore(*began_with)
    progress = PlainProgress(Terminal(quiet=True))
    progress.start(1, 1, made.group_names)
    recorder = Recorder(made, None, progress)
    train(made, recorder, lambda number: saved.append(state.capture()), done)
    clocked = ("seconds", "samples_per_second")
    records = [{k: v for k, v in line.items() if k not in clocked} for line in (*recorder.metrics, *recorder.clients)]
    return records, saved


def same_objects(tensors):
    """By name, the first of the names of the very same tensor: what a checkpoint stores once."""
    first = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}


def require_equal(ours, theirs):
    for (tensors, state), (expected, expected_state) in zip(ours, theirs, strict=True):
        assert sha256_tensors(tensors) == sha256_tensors(expected)
        assert same_objects(tensors) == same_objects(expected)
        assert state == expected_state


@pytest.mark.parametrize("case", slow_but(CASES, "dropped"))
def test_equal_to_a_run_that_keeps_all_in_memory(case, pair, built):
    without, made = map(built, pair(CASES[case]))
    records, saved = run(without)
    away_records, away_saved = run(made)
    assert away_records == records
    require_equal(away_saved, saved)
    assert made.offload.store.peak_disk_bytes > 0 and made.offload.store.memory_bytes <= 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "onto"),
    [
        (STATEFUL[0], True),
        ("ranks that shrink", False),
        ("groups with momentum", False),
        (STATEFUL[0], False),
        *((case, onto) for case in STATEFUL[1:] for onto in (True, False)),
        ("moments kept", True),
        ("pulled back", True),
        ("coded both ways", True),
        ("shared gradients", True),
        ("changed base", True),
        ("unsplit", False),
    ],
)
def test_goes_on_from_a_run_with_the_other_setting(case, onto, pair, built):
    first, second = map(built, pair(CASES[case])[:: 1 if onto else -1])
    _, saved = run(first)
    _, rest = run(second, 1, saved[1])
    require_equal(rest, saved[2:])


def test_who_is_away_cannot_be_read(pair, built):
    made = built(pair({})[1])
    set_up(made)
    for read in (
        lambda: made.clients["a-1"],
        lambda: made.aggregator.members["a-1"].adapters,
        lambda: made.aggregator.members["a-1"].exchanged(),
        lambda: made.model_of_client("a-1"),
    ):
        with pytest.raises(AtlasError, match="away"):
            read()
    with made.at_hand(["a-1"]), made.at_hand(["a-1", "b-1"]):
        assert made.clients["a-1"].adapters is made.aggregator.members["a-1"].adapters
    assert list(made.clients) == ["a-1", "a-2", "b-1", "b-2", "c-1", "c-2"]
    with pytest.raises(AtlasError, match="b-1 is away"):
        made.clients["b-1"]


@pytest.mark.slow
def test_what_the_model_would_need_unsplit_is_known_while_clients_are_away(pair, built):
    batch = SimpleNamespace(saved_activations=1, batch_size=2, batch_tokens=8)
    found = []
    for made in map(built, pair({"aggregation": {"method": "fedsa"}})):
        set_up(made)
        found.append(reference_memory(made, [batch]))
    assert found[0] == found[1] and found[0]["unsplit_lora"]["adapters"] > 0


def test_clients_that_own_the_same_share_it_and_few_are_made(pair, built, monkeypatch):
    _, config = pair({"clients": {"a": {"count": 30}}, "partition": {"min_examples": 1}})
    made = built(config)
    brought = []
    real = made.offload._bring_in
    monkeypatch.setattr(made.offload, "_bring_in", lambda name: brought.append(name) or real(name))
    set_up(made)
    aways = {id(member.stored) for member in made.aggregator.members.values()}
    assert len(aways) == 3 and len(made.offload.store._entries) == 3
    assert len(brought) <= 6  # the base's size is asked of one a kind, and one of each is delivered to


def files(folder):
    return [path for path in folder.rglob("*.safetensors") if path.is_file()]


def test_files_are_their_owners_and_are_removed(tmp_path):
    parent = tmp_path / "runs"
    store = TensorStore(100, TensorFiles(parent, OFFLOAD))
    sets = [{"x": torch.full((20,), float(i))} for i in range(3)]  # 80 bytes each
    keys = [store.put(each) for each in sets]
    sets[0]["x"].zero_()  # the store has copies
    assert (store.memory_bytes, store.disk_bytes) == (80, 160) and len(files(parent)) == 2
    (folder,) = parent.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files(parent))
    read = store.get(keys[1])["x"]
    assert [store.get(key)["x"][0].item() for key in keys] == [0.0, 1.0, 2.0]
    assert store.put({"x": torch.ones(20)}) == keys[1] and len(files(parent)) == 2
    store.release(keys[1])
    assert store.get(keys[1])["x"].sum() == 20
    store.release(keys[1])
    assert len(files(parent)) == 1 and read.sum() == 20  # what was read stays
    store.close()
    assert list(parent.iterdir()) == []


def test_a_changed_file_and_a_full_disk_are_named(tmp_path, monkeypatch):
    store = TensorStore(1, TensorFiles(tmp_path, OFFLOAD))
    key = store.put({"x": torch.ones(20)})
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(AtlasError, match="was changed"):
        store.get(key)
    file.write_bytes(b"short")
    with pytest.raises(AtlasError, match="cannot be read"):
        store.get(key)

    def full(self, data):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(tensor_files.Path, "write_bytes", full)
    with pytest.raises(OutputError, match="no space left"):
        store.put({"x": torch.zeros(20)})
    assert files(tmp_path) == [file]
    store.close()


def test_changes_of_the_base_that_come_back_lie_as_they_did():
    """No view of the bytes that were read: a product with a single row may round by the address that it begins at."""
    read = torch.arange(9.0)
    came = changes_by_path({"x/0/A": read[1:5].view(1, 4), "x/0/B": read[5:].view(4, 1)}, torch.device("cpu"))
    assert [part.storage_offset() for part in came["x"][0]] == [0, 0]
    assert {name: part.tolist() for name, part in named_changes(came).items()} == {
        "x/0/A": [[1, 2, 3, 4]],
        "x/0/B": [[5], [6], [7], [8]],
    }
