"""Tokenized rows in the cache: what comes back is what was encoded, and nothing that goes wrong there stops a run."""

import errno
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_models import WORDS, word_tokenizer

from atlas_cli import tasks
from atlas_cli.data import token_cache as tokenized
from atlas_cli.storage import cached_folders as kept
from atlas_cli.storage import scratch_folders as scratch

N = tokenized.FEWEST_ROWS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path))
    return tmp_path / "tokenized"


def words(i, count=3):
    return [WORDS[(i + k) % len(WORDS)] for k in range(count + i % 4)]


ROWS = {
    "sequence-classification": [{"text": " ".join(words(i)), "label": "ab"[i % 2]} for i in range(N)],
    "regression": [{"text": " ".join(words(i)), "label": float(i)} for i in range(N)],
    "token-classification": [{"tokens": words(i), "tags": ["B-x"] + ["O"] * (len(words(i)) - 1)} for i in range(N)],
    "question-answering": [
        {"question": WORDS[i % 5], "context": " ".join(words(i, 12)), "answers": words(i)[0]} for i in range(N)
    ],
    "causal-lm": [{"text": " ".join(words(i))} for i in range(N - 1)] + [{"text": WORDS[0]}],
    "instruction": [{"prompt": " ".join(words(i)), "response": WORDS[i % 7]} for i in range(N)],
}
CLASSES = {"sequence-classification": "ab", "token-classification": ("O", "B-x")}


def counting(name, classes=None):
    """A task, and a list that grows by one with every row it encodes."""
    task, seen = tasks.build(name, classes or CLASSES.get(name, ())), []
    encode = task.encode

    def counted(row, tokenizer, max_length):
        seen.append(row)
        return encode(row, tokenizer, max_length)

    task.encode = counted
    return task, seen


def same(a, b):
    """Equal, types included."""
    return a == b and json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


@pytest.mark.parametrize("name", ROWS)
def test_the_second_time_nothing_is_tokenized_and_features_are_equal(name):
    task, seen = counting(name)
    rows, tokenizer = ROWS[name], word_tokenizer(name in ("causal-lm", "instruction"))
    first = tokenized.encode(task, rows, tokenizer, 12)
    assert len(seen) == len(first) == N
    again = tokenized.encode(task, rows, word_tokenizer(name in ("causal-lm", "instruction")), 12)
    assert len(seen) == N
    assert same(first, again)
    if name == "question-answering":
        assert max(map(len, again)) > 1  # windows


def test_whatever_decides_the_features_is_in_the_key(monkeypatch):
    name = "sequence-classification"
    rows, tokenizer = ROWS[name], word_tokenizer(False)
    tokenized.encode(counting(name)[0], rows, tokenizer, 12)
    larger = word_tokenizer(False)
    larger.add_tokens(["unheard"])
    other_rows = [*rows[:-1], {**rows[-1], "text": "other"}]
    for changed in (
        (counting(name, "ba"), rows, tokenizer, 12),
        (counting(name), other_rows, tokenizer, 12),
        (counting(name), rows[::-1], tokenizer, 12),
        (counting(name), rows, larger, 12),
        (counting(name), rows, tokenizer, 4),
    ):
        (task, seen), *arguments = changed
        tokenized.encode(task, *arguments)
        assert len(seen) == N
    monkeypatch.setattr(tokenized, "_source_of_tasks", lambda: b"a task type was changed")
    task, seen = counting(name)
    tokenized.encode(task, rows, tokenizer, 12)
    assert len(seen) == N


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("which", "damage"),
    [
        (".safetensors", flip),
        (".safetensors", lambda path: path.write_bytes(b"")),
        (".json", lambda path: path.write_bytes(b'{"sha256": 3')),
        (".json", lambda path: path.write_bytes(b"[]")),
        (".json", lambda path: path.write_bytes(b"\xff\xfe")),
    ],
)
def test_a_damaged_entry_is_tokenized_anew_and_replaced(folder, capsys, which, damage):
    task, seen = counting("causal-lm")
    first = tokenized.encode(task, ROWS["causal-lm"], word_tokenizer(True), 12)
    (path,) = folder.glob(f"*{which}")
    damage(path)
    for passes in (2, 2):  # the second time out of what replaced it
        assert same(tokenized.encode(task, ROWS["causal-lm"], word_tokenizer(True), 12), first)
        assert len(seen) == passes * N
    assert capsys.readouterr().err.count("tokenizing anew") == 1


def test_two_entries_that_changed_places_are_not_used(folder, capsys):
    """Each is whole by its hash; the key inside says that it is of other rows."""
    rows = ROWS["causal-lm"]
    wanted = [tokenized.encode(counting("causal-lm")[0], each, word_tokenizer(True), 12) for each in (rows, rows[::-1])]
    one, other = sorted(folder.glob("*.safetensors"))
    for suffix in (".safetensors", ".json"):
        a, b = one.with_suffix(suffix), other.with_suffix(suffix)
        content = a.read_bytes()
        a.write_bytes(b.read_bytes())
        b.write_bytes(content)
    for each, expected in zip((rows, rows[::-1]), wanted, strict=True):
        task, seen = counting("causal-lm")
        assert same(tokenized.encode(task, each, word_tokenizer(True), 12), expected) and len(seen) == N
    assert capsys.readouterr().err.count("of other rows or another tokenizer") == 2


@pytest.mark.parametrize("call", ["mkdir", "mkdtemp", "replace"])
def test_a_disk_that_cannot_be_written_costs_only_time(folder, monkeypatch, call):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = {"mkdir": kept.Path, "mkdtemp": scratch.tempfile, "replace": kept.os}[call]
    monkeypatch.setattr(owner, call, full)
    task, seen = counting("causal-lm")
    assert len(tokenized.encode(task, ROWS["causal-lm"], word_tokenizer(True), 12)) == len(seen) == N
    assert not list(folder.glob("*"))


@pytest.mark.slow
def test_several_at_once_leave_one_whole_entry(folder):
    def run(_):
        return tokenized.encode(counting("causal-lm")[0], ROWS["causal-lm"], word_tokenizer(True), 12)

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(run, range(8))
    assert all(same(first, other) for other in others)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]
    task, seen = counting("causal-lm")
    assert same(tokenized.encode(task, ROWS["causal-lm"], word_tokenizer(True), 12), first)
    assert not seen


def test_what_would_not_come_back_as_it_is_is_not_kept(folder):
    def strange(row, tokenizer, max_length):
        return [{"input_ids": [1], "labels": 0, "meta": {"pair": (1, 2)}}]

    task, _ = counting("causal-lm")
    task.encode = strange
    assert tokenized.encode(task, ROWS["causal-lm"], word_tokenizer(True), 12)[0][0]["meta"]["pair"] == (1, 2)
    assert not folder.exists()
    tokenized.encode(counting("causal-lm")[0], ROWS["causal-lm"][:-1], word_tokenizer(True), 12)  # few rows
    tokenized.encode(counting("causal-lm")[0], [{"text": "a", "x": {1}}] * N, word_tokenizer(True), 12)  # no JSON
    assert not folder.exists()


def test_the_folder_is_bounded(folder, monkeypatch):
    tokenized.encode(counting("causal-lm")[0], ROWS["causal-lm"], word_tokenizer(True), 12)
    (old,) = folder.glob("*.safetensors")
    monkeypatch.setattr(tokenized, "MOST_BYTES", old.stat().st_size * 3 // 2)
    tokenized.encode(counting("causal-lm")[0], ROWS["causal-lm"], word_tokenizer(True), 13)
    (new,) = folder.glob("*.safetensors")
    assert new != old
    assert len(list(folder.iterdir())) == 2


NUMBERS = st.lists(st.integers(-100, 2**31 - 1), max_size=4)
FEATURES = st.fixed_dictionaries(
    {"input_ids": NUMBERS, "labels": st.integers(0, 9) | NUMBERS, "truncated": st.booleans()},
    optional={
        "token_type_ids": NUMBERS,
        "meta": st.dictionaries(st.sampled_from("xyz"), st.text("aé\ud800", max_size=3) | NUMBERS, max_size=2),
    },
)


@given(st.lists(st.lists(FEATURES, max_size=2), max_size=3))
def test_any_features_come_back(encoded):
    back = tokenized._unpacked(tokenized.load(tokenized.save(tokenized._packed(encoded))))
    assert back == encoded


def test_labels_with_decimals_stay_what_they_are():
    """Whole ones, too: 2.0 as 2 is equal, and another dtype."""
    name = "regression"
    task, seen = counting(name)
    several, encode = {"labels": [2.0, 3.0]}, task.encode
    task.encode = lambda *given: [{**feature, **several} for feature in encode(*given)]
    for _ in range(2):
        found = tokenized.encode(task, ROWS[name], word_tokenizer(False), 12)
        assert all(type(label) is float for of_row in found for feature in of_row for label in feature["labels"])
    assert seen
