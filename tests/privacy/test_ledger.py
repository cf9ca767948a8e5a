"""A ledger over runs: units by hand, no figure that falls, and a file that is whole at every moment."""

import json

import pytest

from atlas_cli.errors import ConfigError, OutputError, ResourceError
from atlas_cli.privacy.account import ledger as module
from atlas_cli.privacy.account.events import Event
from atlas_cli.privacy.account.ledger import Entry, Ledger, Told, require_other_noise, told_before


def entry(run="r", rounds=1, seed=0, sha="x", **clients):
    """``client=("rows", {channel: event})``; each letter is a row."""
    told = {name: Told(tuple(rows), events) for name, (rows, events) in clients.items()}
    return Entry(run, "toy", "2026-01-01", seed, sha, rounds, told)


def updates(times, **more):
    return {"updates": Event("gaussian", times, 2.0, **more)}


CLIENT, EXAMPLE = {"updates": "client"}, {"updates": "example"}


def test_a_client_is_known_by_its_rows():
    before = [entry(a=("uv", updates(3)), b=("wx", updates(5)))]
    found = told_before(before, {"first": "uv", "second": "xw", "new": "yz"}, CLIENT)
    assert found == {
        "first": {"updates": (Event("gaussian", 3, 2.0),)},
        "second": {"updates": (Event("gaussian", 5, 2.0),)},
    }


def test_a_client_whose_rows_several_held_moves_the_sum_of_each():
    """Two clients at once: twice as far, so 4 times; and another run is added."""
    before = [entry("1", a=("uv", updates(3)), b=("wx", updates(5))), entry("2", a=("uw", updates(2)))]
    assert told_before(before, {"c": "uw"}, CLIENT) == {"c": {"updates": (Event("gaussian", 4 * 5 + 2, 2.0),)}}


def test_units_are_brought_together():
    sampled = {"updates": Event("sampled-gaussian", 10, 2.0, 0.1)}
    # three rows of a client were examples: a sum that moves by 3 clips
    found = told_before([entry(a=("uvwx", sampled))], {"c": "uvwy"}, CLIENT)
    assert found == {"c": {"updates": (Event("gaussian", 10 * 9, 2.0),)}}
    # an example in the updates of the client that held it: it turns by 2 clips
    found = told_before([entry(a=("uv", updates(3)))], {"c": "uy"}, EXAMPLE)
    assert found == {"c": {"updates": (Event("gaussian", 4 * 3, 2.0),)}}
    # the same example of two clients, once in each
    found = told_before([entry(a=("uv", sampled), b=("uz", sampled))], {"c": "u"}, EXAMPLE)
    assert found == {"c": {"updates": (Event("sampled-gaussian", 20, 2.0, 0.1),)}}
    # a label of one client each
    labels = {"labels": Event("randomised-response", 1, 2.0)}
    found = told_before([entry(a=("u", labels), b=("v", labels))], {"c": "uv"}, {"labels": "example"})
    assert found == {"c": {"labels": (Event("randomised-response", 1, 2.0),)}}


def test_what_was_sent_without_a_mechanism_stays_unbounded():
    found = told_before([entry(a=("u", {"updates": Event("none", 1)}), b=("v", updates(9)))], {"c": "uv"}, CLIENT)
    assert [event.kind for event in found["c"]["updates"]] == ["none"]


def test_no_figure_falls_and_what_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.add(lambda before: entry(rounds=4, a=("u", updates(4))))
    ledger.add(lambda before: entry(rounds=2, a=("u", updates(2))))  # resumed from round 1
    ledger.add(lambda before: entry("s", a=("v", updates(1))))
    first, second = ledger.read()
    assert (first.rounds, first.clients["a"].events) == (4, updates(4)) and second.run == "s"

    content = ledger.path.read_bytes()

    def refuses(before):
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        ledger.add(refuses)
    monkeypatch.setattr(module, "move", lambda *paths: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OutputError, match="no space left"):
        ledger.add(lambda before: entry("t", a=("v", updates(1))))
    assert ledger.path.read_bytes() == content and not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.update(format="other"), "format is 'other'"),
        (lambda found: found["runs"][0].pop("seed"), "seed"),
        (lambda found: found["runs"][0]["clients"]["a"]["told"]["updates"].update(times=-1), "updates is no event"),
        (lambda found: found["runs"][0]["clients"]["a"]["told"]["updates"].update(kind="laplace"), "is no event"),
    ],
)
def test_a_damaged_ledger_names_what_is_wrong(tmp_path, change, says):
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.add(lambda before: entry(a=("u", updates(1))))
    content = json.loads(ledger.path.read_text(encoding="utf-8"))
    change(content)
    ledger.path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ResourceError, match=says):
        Ledger(ledger.path)


def test_noise_of_one_seed_is_refused_on_shared_rows_alone():
    before = [entry(seed=3, sha="x", a=("uv", updates(1)))]
    require_other_noise(before, {"u"}, "new", 4, "y")
    require_other_noise(before, {"w"}, "new", 3, "y")
    require_other_noise(before, {"u"}, "new", 3, "x")  # the same experiment once more
    with pytest.raises(ConfigError, match=r"^seed: .*equal noise cancels"):
        require_other_noise(before, {"u"}, "new", 3, "y")
