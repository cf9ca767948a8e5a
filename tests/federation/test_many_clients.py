"""What many clients over one base cost: counted, not timed."""

import gc
import json
import random
from collections import Counter
from contextlib import nullcontext

import pytest
import torch

from atlas_cli import SplitClient
from atlas_cli.errors import AtlasError
from atlas_cli.experiment import round_loop as training
from atlas_cli.experiment import saved_clients
from atlas_cli.experiment.recorder import Recorder, RoundResult, Scores
from atlas_cli.experiment.round_loop import require_delivered, train
from atlas_cli.experiment.run_state import RunState
from atlas_cli.experiment.saved_clients import ClientRecord, SavedClients
from atlas_cli.federation import build as building
from atlas_cli.federation.client_state import member as members
from atlas_cli.federation.client_state.coding import Coding
from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.merging import aggregator
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.federation.parties.numerics import clip_and_step
from atlas_cli.federation.parties.optimizers import build_optimizer
from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter
from atlas_cli.models.frozen import load
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.record_files import RecordFiles
from atlas_cli.storage import tensor_store
from atlas_cli.wire import messages

RANK, LAYERS = 4, 4  # two of the model's four blocks, two adapters each


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory):
    draw = random.Random(0)
    rows = [f"{' '.join(draw.choices(['film', 'game', 'city'], k=3))} number{i},{'ab'[i % 2]}" for i in range(1300)]
    path = tmp_path_factory.mktemp("many") / "rows.csv"
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def many(make_federation, many_rows):
    def make(count, **changes):
        return make_federation(
            "bert",
            **{
                "clients": {n: {"task_group": "g", "rank": RANK, "count": count if n == "a" else 1} for n in "abc"},
                "task_groups": {"g": {"data": {"files": many_rows}}},
                "training": {"rounds": 4, "local_steps": 1, "batch_size": 1, "cohort": 2 / (count + 2)},
                "evaluation": {"every": 100},
                "partition": {"min_examples": 1},
                **changes,
            },
        )

    return make


def quiet(made):
    progress = PlainProgress(Terminal(quiet=True))
    progress.start(1, 1, ["g"])
    return Recorder(made, None, progress)


def costs(made, monkeypatch):
    """By round, how many times clients were looked at, their tensors hashed, and their lines written."""
    counts, by_round, saved, recorder = Counter(), [], RunState(made), quiet(made)

    def counted(owner, name):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            counts[name] += len(args[0]) if name == "sha256_tensors" else 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    def checkpoint(number):
        tensors, state = saved.capture()
        by_round.append(Counter(counts))
        records, numbers = map(tuple, state["clients"]["records"]), state["clients"]["clients"]
        assert len(set(records)) == len(state["clients"]["records"])  # equal clients share one, in their order
        assert list(dict.fromkeys(numbers)) == list(range(len(state["clients"]["records"])))
        for name, n in zip(made.clients, state["clients"]["clients"], strict=True):
            with made.offload.at_hand([name]) if made.offload else nullcontext():
                sha256 = ClientRecord(*state["clients"]["records"][n]).exchanged
                for key, value in made.aggregator.members[name].exchanged().items():
                    assert torch.equal(tensors[f"clients/exchanged/{sha256}/{key}"], value)
        counts.clear()

    with monkeypatch.context() as monkeypatch:
        for module in (aggregator, tensor_store, saved_clients, members):
            counted(module, "sha256_tensors")
        looking = ((Member, "exchanged_sha256"), (AdapterSet, "state"), (SavedClients, "_look_at"))
        for owner, name in (*looking, (Recorder, "_client_line"), (saved_clients, "_record_of")):
            counted(owner, name)
        monkeypatch.setattr(training, "evaluate", lambda made: Scores())  # local tests are of all clients by design
        train(made, recorder, checkpoint)
    if made.offload is not None:
        made.offload.store.close()
    assert len(recorder.clients) == sum(each["_client_line"] for each in by_round)
    assert all(line["held_sha256"] == line["delivered_sha256"] for line in recorder.clients)
    return by_round


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "memory"),
    [
        ("delta-svd", None),
        ("fedsa", "1 KiB"),
        ("delta-svd", "1 KiB"),
        ("fedsa", None),
        ("flora", None),
        ("flora", "1 KiB"),
    ],
)
def test_a_round_costs_what_its_cohort_does(many, monkeypatch, tmp_path, method, memory):
    away = {"engine": {"offload": memory}, "output": {"dir": str(tmp_path)}}
    few, more = (costs(many(n, aggregation={"method": method}, **away), monkeypatch) for n in (48, 98))
    assert few[2:4] == more[2:4]  # of 50 and of 100 clients
    for found, clients in ((few, 50), (more, 100)):
        assert [each["_client_line"] for each in found] == [clients, 2, 2, 2, clients]
        assert [each["_look_at"] for each in found] == ([0] * 5 if memory else [clients, 2, 2, 2, clients])
        # of idle clients each kind, and each that trained where the method leaves something on it
        *kinds, last = [each["_record_of"] for each in found]
        assert kinds == ([0] * 4 if not memory else [1, 3, 5, 7] if method == "fedsa" else [1, 2, 3, 4])
        assert (1 if memory else 0) <= last <= (9 if memory and method == "fedsa" else 1)
        assert memory or found[-1]["sha256_tensors"] >= clients * 2 * LAYERS  # the last round trusts no counter


def test_what_is_sent_to_all_is_made_once_for_clients_that_are_away_and_alike(many, monkeypatch, tmp_path):
    made, counts = Counter(), []
    for owner, name in (
        (building, "new_client"),
        (Coding, "of"),
        (Aggregator, "deliver"),
        (messages, "serialized_size"),
    ):
        real = getattr(owner, name)
        call = lambda *of, real=real, name=name, **named: made.update([name]) or real(*of, **named)  # noqa: E731
        monkeypatch.setattr(owner, name, call)
    for n in (20, 60):
        made.clear()
        federation = many(n, engine={"offload": "1 KiB"}, output={"dir": str(tmp_path)})
        ledger = training.set_up(federation)
        assert ledger.total("down", federation.clients) == (n + 2) * ledger.total("down", ["c"]) > 0
        federation.offload.store.close()
        counts.append(Counter(made))
    assert counts[0] == counts[1] and {"new_client", "of", "deliver", "serialized_size"} == set(made)


def test_lines_of_clients_are_written_and_not_kept(many, monkeypatch, tmp_path):
    found = []
    for files in (None, RecordFiles(RunDirectory.create(tmp_path, "many", 0))):
        recorder = quiet(made := many(3))
        recorder.files = files
        recorder.round(RoundResult(0, training.set_up(made), Scores()))
        found.append(recorder.clients)
    assert (
        len(found[0]) == 5
        and found[1] == []
        and files.run.read_lines("clients.jsonl") == json.loads(json.dumps(found[0]))
    )


@pytest.mark.slow
def test_a_write_to_a_client_that_takes_no_part_is_found(many, train_quietly):
    made = many(3, training={"rounds": 1, "local_steps": 1, "batch_size": 1})
    train_quietly(made)
    B = made.clients["c"].adapters.state()
    next(iter(B.values()))[0, 0] += 1
    with pytest.raises(AtlasError, match="client c does not hold"):
        require_delivered(made, made.clients)


@pytest.mark.slow
def test_a_write_behind_the_counters_is_found_when_all_is_hashed_anew(many, train_quietly):
    made = many(3, training={"rounds": 1, "local_steps": 1, "batch_size": 1})
    train_quietly(made)
    next(made.clients["c"].adapters.parameters()).data.numpy()[0, 0] += 1
    with pytest.raises(AtlasError, match="client c does not hold"):
        require_delivered(made, made.clients, anew=True)


@pytest.mark.parametrize("memory", ["1 GiB", "1 KiB"])
def test_the_state_that_idle_clients_share_is_hashed_anew_once(many, monkeypatch, tmp_path, memory):
    made, hashed = many(5, engine={"offload": memory}, output={"dir": str(tmp_path)}), []
    training.set_up(made)
    real = tensor_store.sha256_tensors
    monkeypatch.setattr(tensor_store, "sha256_tensors", lambda tensors: hashed.append(1) or real(tensors))
    require_delivered(made, made.clients)
    assert hashed == []
    require_delivered(made, made.clients, anew=True)
    assert hashed == [1]
    stored = made.aggregator.members["c"].stored
    state = made.offload.store.get(stored.exchanged)
    next(iter(state.values())).numpy()[0, 0] += 1
    monkeypatch.setattr(made.offload.store, "get", lambda key: state)
    with pytest.raises(AtlasError, match="idle clients is not what was stored"):
        require_delivered(made, made.clients, anew=True)
    monkeypatch.undo()
    made.aggregator.members["a-2"].delivered_sha256 = "0" * 64
    with pytest.raises(AtlasError, match="client a-2 does not hold"):
        require_delivered(made, made.clients)
    made.offload.store.close()


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_every_step_counts_up_what_it_writes_to(name, make_config):
    config = make_config(training={"client_optimizer": {"name": name}}).training.client_optimizer
    trained = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    optimizer = build_optimizer(trained, config)
    for _ in range(2):
        before = [p._version for p in trained]
        for p in trained:
            p.grad = torch.ones_like(p)
        clip_and_step(optimizer, trained, None, "here")
        assert all(p._version > was for p, was in zip(trained, before, strict=True))


def tensor_bytes_alive():
    gc.collect()
    alive = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in gc.get_objects()
        if type(t) in (torch.Tensor, torch.nn.Parameter) and t.device.type == "cpu"
    }
    return sum(alive.values())


@pytest.mark.slow
def test_a_client_holds_its_adapters_and_their_moments_alone(model_folder):
    base = load.shared_base(model_folder("bert"), "pretrained", torch.device("cpu"), 0)
    SplitClient("first", base=base, rank_config=RANK, split_layer=2)
    before = tensor_bytes_alive()
    clients = [SplitClient(i, base=base, rank_config=RANK, split_layer=2) for i in range(200)]
    shapes = [(a.lora_A.shape[1], a.lora_B.shape[0]) for a in clients[0].adapters.adapters.values()]
    adapters = sum(4 * RANK * (d_in + d_out) for d_in, d_out in shapes)
    assert tensor_bytes_alive() - before == 200 * adapters
    for client in clients[:20]:
        for parameter in client.trained():
            parameter.grad = torch.ones_like(parameter)
        client.step()
    steps = 4 * 2 * len(shapes)  # AdamW's own count, a number a tensor
    assert tensor_bytes_alive() - before == 200 * adapters + 20 * (2 * adapters + steps)


def test_building_makes_a_few_adapters_a_client_and_one_half_for_all(many, monkeypatch):
    made = {"adapters": 0, "halves": 0}

    def counted(key, real):
        def call(*args, **kwargs):
            made[key] += 1
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(LoRAAdapter, "__init__", counted("adapters", LoRAAdapter.__init__))
    monkeypatch.setattr(load, "client_half", counted("halves", load.client_half))
    counts = {}
    for n in (98, 998):
        made.update(adapters=0, halves=0)
        federation = many(n)
        counts[n] = dict(made)
    each = len(federation.clients["b"].adapters.adapters)
    assert counts[998]["adapters"] - counts[98]["adapters"] == 900 * each
    assert counts[98]["halves"] == counts[998]["halves"] == 1
