import re
from html.parser import HTMLParser

import pytest
from support.made_up_run import CLIENTS, client_record, holder, memory_record, message_records

from atlas_cli.errors import ResourceError
from atlas_cli.reports import sections
from atlas_cli.reports.html import page, write_report
from atlas_cli.reports.plots import MAX_BARS, memory_svg

CHECK = {
    "examples": 4,
    "padding_tokens": 85,
    "loss_difference": 0.0,
    "gradient_difference": 1.2e-9,
    "tolerance": 1e-6,
}
VERIFY = {"questions": CHECK}


class Outline(HTMLParser):
    """Tags and attributes of a page, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_self_contained_and_well_formed(make_run):
    path = write_report(make_run(verify=VERIFY))
    text = path.read_text(encoding="utf-8")
    outline = Outline(text)
    assert path.name == "report.html"
    assert outline.tags.count("svg") == 5  # loss, accuracy, perplexity, bytes, memory
    assert not {"script", "link", "img", "iframe", "object"} & set(outline.tags)
    assert not re.search(r"https?:|//\w+\.|@import", text)
    assert all(value.startswith("#") for name, value in outline.attributes if name in ("href", "xlink:href", "src"))


def test_clusters_are_shown_where_there_are_some(make_run):
    run = make_run()
    assert "Clusters" not in page(run)
    agreement = {"ari": 0.25, "nmi": 0.5, "shuffled_ari": 0.125, "shuffled_nmi": 0.4}
    found = {"by": "fingerprints", "silhouette_by_k": {"2": 0.3}, "agreement": agreement, "moved": []}
    run.append("clusters.jsonl", [{"round": 0, "assignment": {"a": "cluster-0", "b": "cluster-<1>"}, **found}])
    text = page(run)
    assert "<h2>Clusters</h2>" in text and "cluster-0: 1, cluster-&lt;1&gt;: 1" in text
    assert all(f"<td>{figure}</td>" in text for figure in ("0.250", "0.125", "0.500", "0.400"))


def test_the_same_run_gives_the_same_page(make_run):
    run = make_run()
    assert page(run) == page(run)


def test_names_are_escaped_everywhere(make_run):
    evil = '<script>alert("1")</script>&$x^{$'
    text = page(make_run(name=evil + "\u202e", clients=CLIENTS | {evil: "spam"}, verify={evil: CHECK}))
    assert "script" not in Outline(text).tags
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;$x^{$" in text
    assert r"\u202e" in text and "\u202e" not in text


def test_the_page_shows_the_figures(make_run):
    text = page(make_run(verify=VERIFY))
    for expected in (
        "12 of 12 hashes are equal",
        "1.2e-09",
        "0.970 (3)",
        "0: 8, 1: 16",
        "668 MiB",
        "pretrained",
        "60.0 MB",
    ):
        assert expected in text, expected


def test_a_run_that_failed_at_once_still_gets_a_page(make_run):
    run = make_run()
    for name in ("metrics.jsonl", "clients.jsonl", "messages.jsonl", "memory.json"):
        (run.path / name).unlink()
    assert page(run).count("Nothing recorded.") == 5


@pytest.mark.parametrize(
    ("ended", "seconds", "took"),
    [(None, None, "not ended"), ("2026-01-31T12:00:09", None, "not known"), ("2026-01-31T12:00:09", 9, "9 s")],
)
def test_how_long_a_run_took_is_said_where_it_is_known(ended, seconds, took):
    shown = sections.facts({"status": "finished", "ended": ended, "duration_s": seconds})
    assert f"<dt>took</dt><dd>{took}</dd>" in shown


def test_a_damaged_record_is_named(make_run):
    run = make_run()
    with (run.path / "clients.jsonl").open("a") as file:
        file.write('{"round": 4, "cli')
    with pytest.raises(ResourceError, match=r"clients\.jsonl:13 is damaged"):
        write_report(run)


def test_ledger_reports_lines_that_differ_from_the_closed_form():
    records = message_records("a", 1)
    assert "differ" not in sections.ledger(records)
    records[0]["payload_bytes"] += 1
    records[1]["closed_form_bytes"] = None
    text = sections.ledger(records)
    assert "1 lines differ" in text
    assert "no formula" in text


def test_proof_counts_the_hashes_and_names_what_is_not_equal():
    records = [
        client_record("a", "spam", 1),
        client_record("b", "spam", 2, delivered_sha256="f" * 64),
        client_record("c", "spam", 1, held_sha256=None, delivered_sha256=None),
    ]
    text = sections.proof({}, records)
    assert "1 of 2 hashes are equal" in text
    assert "b in round 2" in text
    assert "not checked" in text


@pytest.mark.parametrize(
    ("client", "rank"), [("phone-1", "4"), ("laptop-2", "0: 8, 1: 16"), ("desk", "8"), ("all", "n/a")]
)
def test_rank_of_a_client_comes_from_its_template_or_the_default(client, rank):
    config = {
        "lora": {"rank": 8},
        "clients": {"phone-1": {"rank": 4}, "laptop": {"rank": {"0": 8, "1": 16}}, "desk": {"rank": None}},
    }
    assert sections.rank_of(client, config) == rank


def test_a_memory_picture_of_many_clients_says_what_it_leaves_out():
    few = {f"c{i}": holder() for i in range(MAX_BARS)}
    assert memory_svg(memory_record(few))[1] == ""
    kinds = {f"phone-{i}": holder() for i in range(100)} | {f"laptop-{i}": holder() for i in range(20)}
    note = memory_svg(memory_record(kinds))[1]
    assert note == "120 clients by kind; a bar shows the client of its kind with the largest total."
    singles = {f"c{i}": holder(activations=1000 * i) for i in range(35)}
    assert memory_svg(memory_record(singles))[1] == "Not shown: 5 clients in 5 bars with smaller totals."


def test_tables_of_very_many_clients_are_bounded_and_say_so(monkeypatch):
    monkeypatch.setattr(sections, "MAX_CLIENT_ROWS", 40)
    for count in (40, 41):
        records = [client_record(f"c-{i:03}", "questions", 1) for i in range(count)]
        last = {"assignment": {f"c-{i:03}": "one" for i in range(count)}, "agreement": None, "moved": []}
        for shown, file in (
            (sections.clients(records, {}, []), "clients.jsonl"),
            (sections.clusters([{"round": 0, "by": "single", **last}]), "clusters.jsonl"),
        ):
            assert len(set(re.findall(r"c-\d{3}", shown))) == 40
            assert f"<summary>{count} clients" in shown
            assert (f"; the first 40 are shown, {file} has all" in shown) == (count > 40)


def test_rows_of_the_data_add_up():
    """Training rows, clients' local tests and the test part stand side by side."""
    data = {"origin": "files d.csv", "train": 1044, "local_test": 5, "test": 12, "classes": ["a", "b"], "sha256": "0"}
    shown = re.sub(r"<[^>]+>", " ", sections.facts({"data": {"g": data}}))
    assert "local tests" in shown and re.search(r"files d\.csv\s+1,044\s+5\s+12\s+a, b", shown)
