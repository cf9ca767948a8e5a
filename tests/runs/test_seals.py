"""Records that are not what was written: found by whoever reads them, with the first line that differs."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_cli.errors import ResourceError
from atlas_cli.printable import as_typed
from atlas_cli.runs.checkpoint import Checkpoint, save_checkpoint
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.record_files import RecordFiles
from atlas_cli.runs.seals import SUMS, seals_of, seals_record

NAME = "messages.jsonl"


def line(number, client="a"):
    facts = {"messages": 2, "bytes": 500, "payload_bytes": 400, "closed_form_bytes": None}
    return {"round": number, "client": client, "kind": "activations", "direction": "up", **facts}


@pytest.fixture
def files(tmp_path):
    files = RecordFiles(RunDirectory.create(tmp_path, "toy", 0))
    for number in range(4):
        files.append(NAME, [line(number, client) for client in "abc"])
    return files


def end(files, **more):
    files.run.write_json("manifest.json", {"status": "finished", "records": seals_record(files.seal()), **more})


def test_what_was_written_is_read(files):
    end(files)
    assert len(files.run.read_lines(NAME)) == 12
    assert [each["file"] for each in files.run.read_lines(SUMS)] == [NAME] * 4
    assert files.run.read_lines("clusters.jsonl") == []


@st.composite
def damage(draw):
    """Lines that were deleted, doubled, altered or swapped, and the number of the first that differs."""
    lines = [json.dumps(line(number, client)) for number in range(4) for client in "abc"]
    i, kind = draw(st.integers(0, 11)), draw(st.sampled_from(["delete", "double", "alter", "swap", "cut"]))
    if kind == "delete":
        return [*lines[:i], *lines[i + 1 :]], i
    if kind == "double":
        return [*lines[: i + 1], *lines[i:]], i + 1
    if kind == "alter":
        return [*lines[:i], lines[i].replace("500", "501"), *lines[i + 1 :]], i
    if kind == "swap":
        j = draw(st.integers(0, 11).filter(lambda j: j != i))
        lines[i], lines[j] = lines[j], lines[i]
        return lines, min(i, j)
    return lines[:i], i


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(harm=damage(), ended=st.booleans())
def test_the_first_line_that_differs_is_named(files, harm, ended):
    """By the manifest of a run that ended, and by the newest checkpoint of one that was killed."""
    lines, first = harm
    (files.run.path / "manifest.json").unlink(missing_ok=True)
    if ended:
        end(files)
    else:
        save_checkpoint(files.run, Checkpoint(3, {}, {}, files.seal()))
    path = files.run.path / NAME
    before = path.read_bytes()
    path.write_text("".join(f"{each}\n" for each in lines), encoding="utf-8")
    try:
        if first == 12 and not ended:  # after what is sealed: of a round that the checkpoint does not know
            assert len(files.run.read_lines(NAME)) == 13
            return
        with pytest.raises(ResourceError) as caught:
            files.run.read_lines(NAME)
        where = f"{path} ends after line {first}," if first == len(lines) else f"{path}:{first + 1}: "
        assert str(caught.value).startswith(where)
        if not ended:
            with pytest.raises(ResourceError) as again:
                RecordFiles.of_checkpoint(files.run, files.seal())
            assert str(again.value) == str(caught.value)
    finally:
        path.write_bytes(before)


def test_where_the_sums_are_damaged_too_the_file_is_named(files):
    end(files)
    (files.run.path / SUMS).write_text("{}\n", encoding="utf-8")
    path = files.run.path / NAME
    path.write_text(path.read_text(encoding="utf-8").replace("500", "501", 1), encoding="utf-8")
    with pytest.raises(ResourceError, match=r"messages\.jsonl is not what was written \(by hash\)"):
        files.run.read_lines(NAME)


def test_a_file_that_is_gone(files):
    end(files)
    (files.run.path / NAME).unlink()
    with pytest.raises(ResourceError, match=r"messages\.jsonl is missing"):
        files.run.read_lines(NAME)


def test_what_came_after_the_checkpoint_is_cut_off_and_what_follows_is_sealed_with_the_rest(files):
    seals, run = files.seal(), files.run
    files.append(NAME, [line(4)])
    files.append("clusters.jsonl", [{"round": 5, "by": "random", "assignment": {}, "moved": [], "silhouette_by_k": {}}])
    with (run.path / NAME).open("a", encoding="utf-8") as file:
        file.write('{"round": 5, "cli')
    again = RecordFiles.of_checkpoint(run, seals)
    assert again.cut() == "lines of later rounds cut off: 1 of clusters.jsonl, 2 of messages.jsonl"
    assert again.cut() is None and not (run.path / "clusters.jsonl").exists()
    again.append(NAME, [line(4, "z")])
    end(again)
    assert [each["round"] for each in run.read_lines(NAME)] == [n for n in range(4) for _ in "abc"] + [4]


@pytest.mark.parametrize(
    "records",
    [
        [],
        {"log.txt": {"bytes": 1, "sha256": "0" * 64}},
        {NAME: {"bytes": -1, "sha256": "0" * 64}},
        {NAME: {"bytes": 1}},
    ],
)
def test_a_manifest_that_says_nothing_sensible_of_its_records(files, records):
    files.run.write_json("manifest.json", {"records": records})
    with pytest.raises(ResourceError, match=r"manifest\.json is damaged: records "):
        seals_of(files.run.path)


def test_half_a_line_of_a_run_that_was_killed_is_said_to_be_cut_off_when_it_goes_on(files):
    """A kill in the middle of a write: what is before the checkpoint is whole, and what comes after is done again."""
    save_checkpoint(files.run, Checkpoint(1, {}, {}, files.seal()), keep=2)
    with (files.run.path / NAME).open("ab") as file:
        file.write(json.dumps(line(4)).encode() + b"\n" + b'{"round": 4, "cli')
    with pytest.raises(ResourceError) as caught:
        files.run.read_lines(NAME)
    assert f"{NAME}:14 is damaged: Invalid JSON: " in str(caught.value)
    assert str(caught.value).endswith(
        "; it is later than the last checkpoint, and if nobody writes there now, atlas train --resume "
        f"{as_typed(str(files.run.path))} cuts it off"
    )
    files.cut()
    assert len(files.run.read_lines(NAME)) == 12
