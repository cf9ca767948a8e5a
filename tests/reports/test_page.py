"""report.html of a made-up run: what is on it, that it holds all it shows, and that nothing of a user is markup."""

import base64
import csv
import io
import re
from html.parser import HTMLParser

import pytest
from support.made_up_run import CLIENTS, client_record, holder, memory_record, message_records, metrics_record

from atlas_cli.errors import ResourceError
from atlas_cli.reports.charts.bars import MAX_BARS
from atlas_cli.reports.page import clients, elements
from atlas_cli.reports.page.classes import classes
from atlas_cli.reports.page.clusters import clusters
from atlas_cli.reports.page.costs import memory, wire
from atlas_cli.reports.page.facts import facts
from atlas_cli.reports.page.headline import headline
from atlas_cli.reports.page.merging import merging
from atlas_cli.reports.page.proof import proof, verdict
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.page.report import page, page_of, write_report
from atlas_cli.reports.page.scores import scores

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


def records(metrics=(), clients=(), **more):
    return RunRecords("run", "runs/run", more.pop("manifest", {}), metrics, clients, **more)


def downloads(text, kind):
    """The contents of the files of a kind that a page offers."""
    found = re.findall(rf'href="data:{re.escape(kind)};charset=utf-8;base64,([^"]*)"', text)
    return [base64.b64decode(content).decode() for content in found]


def test_the_page_is_self_contained_and_well_formed(make_run):
    path = write_report(make_run(verify=VERIFY))
    text = path.read_text(encoding="utf-8")
    outline = Outline(text)
    assert path.name == "report.html"
    assert not {"script", "link", "img", "iframe", "object"} & set(outline.tags)
    assert not re.search(r"https?:|//\w+\.|@import", text)
    links = [value for name, value in outline.attributes if name in ("href", "xlink:href", "src")]
    assert all(value.startswith(("#", "data:image/svg+xml;", "data:text/csv;")) for value in links)
    anchors = {value for name, value in outline.attributes if name == "id"}
    assert {value[1:] for value in links if value.startswith("#")} <= anchors
    assert "refresh" not in text


def test_every_chart_has_a_caption_its_data_and_files(make_run):
    text = page(make_run(verify=VERIFY))
    charts = text.count("<svg")
    assert charts == text.count("<figcaption>") == text.count('role="img"') == text.count("<figure") >= 12
    pictures, sheets = downloads(text, "image/svg+xml"), downloads(text, "text/csv")
    assert len(pictures) == len(sheets) == charts
    for picture in pictures:
        Outline(picture)
        assert 'xmlns="http://www.w3.org/2000/svg"' in picture and "prefers-color-scheme:dark" in picture
    heads = [next(csv.reader(io.StringIO(sheet))) for sheet in sheets]
    assert ["task group", "round", "accuracy"] in heads
    of_bytes = next(list(csv.reader(io.StringIO(sheet))) for sheet in sheets if sheet.startswith("message,direction"))
    assert ["activations", "up", "96", "6000000", "5990400", "0.16%", "equal"] in of_bytes
    assert text.count("<table") == text.count("<caption>") and '<th scope="row">' in text


def test_the_first_lines_say_result_cost_and_proof(make_run):
    text = page(make_run(verify=VERIFY)).partition("<nav")[0]
    for expected in (
        "questions: accuracy 0.700",
        "95 %: 0.633 to 0.759; before training 0.167",  # Wilson's interval of 140 of 200
        "prose: perplexity 41.000",
        "All clients together sent 10.8 MB and got 9.90 MB in 3 rounds",
        "at most (desk), instead of 386 MiB for full fine-tuning",
        "at most 1.2e-09 apart, limit 1e-06",
        "All 16 adapters that clients held are, by hash, those that were delivered",
    ):
        assert expected in text, expected
    assert 'class="card good"' in text


def test_a_result_is_held_against_what_needs_no_training():
    rows = [metrics_record("questions", 0), metrics_record("questions", 3)]
    assert "before training 0.167; always the largest class: 0.600" in headline(records(rows))
    near = [rows[0] | {"test": {"accuracy": 0.65}}, rows[1] | {"test_by_class": None}]
    text = headline(records(near))
    assert "; before training 0.650, within this interval<" in text and "largest class" not in text


def test_the_first_lines_say_what_their_figures_are_of():
    messages = message_records("a", 1)
    memory_of = memory_record({"a": holder()})
    metrics = [metrics_record("spam", 1)]
    text = headline(records(metrics, messages=messages, memory=memory_of, manifest={"duration_s": 21}))
    for expected in (
        "Time: 5 s in local steps and evaluation, 21 s from start to end, on this machine.",
        "The bytes of all 40 messages equal their closed form.",
        "Tensors of a client: ",
    ):
        assert expected in text, expected
    messages[0]["closed_form_bytes"] = None
    assert "The bytes of 32 of 40 messages equal" in headline(records(metrics, messages=messages))


@pytest.mark.parametrize("broken", ["split", "hash", "bytes", "frozen"])
def test_the_first_lines_say_what_does_not_hold(broken):
    manifest = {
        "verify": {"questions": CHECK | ({"loss_difference": 0.1} if broken == "split" else {})},
        "base_unchanged": broken != "frozen",
    }
    held = [client_record("a", "spam", 1, **({"held_sha256": "f" * 64} if broken == "hash" else {}))]
    messages = message_records("a", 1)
    messages[0]["payload_bytes"] += broken == "bytes"
    wrong = records([metrics_record("spam", 1)], held, manifest=manifest, messages=messages)
    holds, said = verdict(wrong)
    assert holds is False and sum("DIFFER" in line or "CHANGED" in line for line in said) == 1
    assert 'class="card bad"' in headline(wrong)


def test_a_metric_is_drawn_against_what_is_known_of_its_cost():
    """Rounds without a time or an energy would make a cost too small: then it is not drawn."""

    def against(joules, sent=9):
        rounds = [{"simulated_seconds": 5.0, "simulated_joules": j, "bytes_up": sent, "bytes_down": 0} for j in joules]
        metrics = [metrics_record("spam", 0), *(metrics_record("spam", r, **x) for r, x in enumerate(rounds, 1))]
        return re.findall(r"<figcaption>Test accuracy by (\w+)", scores(records(metrics)))

    assert against([2.0, 3.0]) == ["round", "MB", "seconds", "joules"]
    assert against([2.0, None]) == ["round", "MB", "seconds"]
    assert against([2.0, 3.0], sent=0) == ["round", "seconds", "joules"]
    assert against([]) == ["round"]


def test_counts_by_class_have_intervals():
    text = classes(records([metrics_record("questions", 3)]))
    first = re.findall(r"<td[^>]*>(.*?)</td>", text)
    assert first[:5] == ["120", "120", "84", "0.700", "0.613 to 0.775"]


def test_clusters_are_shown_where_there_are_some(make_run):
    run = make_run()
    assert "Clusters" not in page(run)
    agreement = {"ari": 0.25, "nmi": 0.5, "shuffled_ari": 0.125, "shuffled_nmi": 0.4}
    found = {"by": "fingerprints", "silhouette_by_k": {"2": 0.3}, "agreement": agreement, "moved": []}
    run.append("clusters.jsonl", [{"round": 0, "assignment": {"a": "cluster-0", "b": "cluster-<1>"}, **found}])
    text = page(run)
    assert "<h2>Clusters</h2>" in text and "cluster-0: 1, cluster-&lt;1&gt;: 1" in text
    assert all(f">{figure}</td>" in text for figure in ("0.250", "0.125", "0.500", "0.400"))


def test_the_same_run_gives_the_same_page(make_run):
    run = make_run()
    assert page(run) == page(run)


def test_names_are_escaped_everywhere(make_run):
    evil = '<script>alert("1")</script>&$x^{$'
    text = page(make_run(name=evil + "\u202e", clients=CLIENTS | {evil: "spam"}, verify={evil: CHECK}))
    assert "script" not in Outline(text).tags
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;$x^{$" in text
    assert r"\u202e" in text and "\u202e" not in text
    for picture in downloads(text, "image/svg+xml"):
        assert "script" not in Outline(picture).tags


def test_the_page_shows_the_figures(make_run):
    text = page(make_run(verify=VERIFY))
    for expected in (
        "16 of 16 hashes are equal",
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
    text = page(run)
    assert text.count("Nothing recorded.") == 9 and 'class="headline"' not in text


def test_a_run_that_goes_on_has_what_metrics_tell_and_loads_itself_again():
    going_on = records([metrics_record("spam", r) for r in range(2)], manifest={"status": "running"}, going_on=True)
    text = page_of(going_on, written="2026-01-31 12:00:00 (UTC)")
    assert (
        '<meta http-equiv="refresh"' in text
        and "Going on after round 1 of ?, as of 2026-01-31 12:00:00 (UTC)" in text
        and "Nothing recorded" not in text
    )
    assert "<h2>Test metrics</h2>" in text and "<h2>Memory</h2>" not in text


@pytest.mark.parametrize(
    ("of_round", "kept"), [(None, "there are no trained adapters"), (1, "adapters/ is of round 1"), (2, "of the last")]
)
def test_a_run_that_was_stopped_after_its_last_round_says_what_is_left(of_round, kept):
    manifest = {"status": "interrupted", "config": {"training": {"rounds": 2}}, "adapters_of_round": of_round}
    text = page_of(records([metrics_record("spam", r) for r in range(3)], manifest=manifest, going_on=True))
    banner = text.partition('class="banner unfinished"')[2].partition("</p>")[0]
    assert "Interrupted after round 2 of 2. All rounds are done; " in banner
    assert kept in banner and "To write what is left: <code>atlas train --resume " in banner
    assert "Nothing recorded" not in text and "refresh" not in text


@pytest.mark.parametrize(
    ("ended", "seconds", "took"),
    [(None, None, "not ended"), ("2026-01-31T12:00:09", None, "not known"), ("2026-01-31T12:00:09", 9, "9 s")],
)
def test_how_long_a_run_took_is_said_where_it_is_known(ended, seconds, took):
    shown = facts({"status": "finished", "ended": ended, "duration_s": seconds, "threads": 1})
    assert f"<dt>took</dt><dd>{took}</dd>" in shown and "1 CPU thread<" in shown


def test_a_damaged_record_is_named(make_run):
    run = make_run()
    with (run.path / "clients.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"round": 4, "cli')
    with pytest.raises(ResourceError, match=r"clients\.jsonl:17 is damaged"):
        write_report(run)


def test_ledger_reports_lines_that_differ_from_the_closed_form():
    lines = message_records("a", 1)
    assert "differ" not in wire(records(messages=lines))
    lines[0]["payload_bytes"] += 1
    lines[1]["closed_form_bytes"] = None
    text = wire(records(messages=lines))
    assert "1 lines differ" in text
    assert "no formula" in text


def test_bars_of_set_up_and_rounds_share_an_axis():
    """A bar that stands for ten times the bytes is ten times as long, whatever kind of message it is."""
    lines = [m for m in message_records("a", 1) if m["kind"] == "activations"] + message_records("a", 0)
    lines[0]["bytes"] = 1_500_000
    widths = re.findall(r'<rect x="144" y="\d+" width="([\d.]+)"', wire(records(messages=lines)))
    assert float(widths[1]) / float(widths[0]) == pytest.approx(10, rel=0.01)


def test_proof_counts_the_hashes_and_names_what_is_not_equal():
    held = [
        client_record("a", "spam", 1),
        client_record("b", "spam", 2, delivered_sha256="f" * 64),
        client_record("c", "spam", 1, held_sha256=None, delivered_sha256=None),
    ]
    text = proof(records(clients=held))
    assert "1 of 2 hashes are equal" in text
    assert "b in round 2" in text
    assert "not checked" in text


def test_failed_and_late_clients_are_named_with_their_reasons():
    dropped = {"phone-1": "failed before step 1", "phone-2": "deadline of 60 s passed in step 3 (61 s)"}
    metrics = [metrics_record("questions", r, dropped=dropped if r == 2 else {}) for r in (1, 2)]
    text = clients.failures(records(metrics))
    assert "2 times a client is not in a merge that it was asked for, 1 of them as it was late" in text
    assert "round 2: failed before step 1" in text and "(61 s)" in text
    assert "Every client that was asked" in clients.failures(records(metrics[:1]))


def test_layers_are_named_by_what_tells_them_apart():
    text = merging(records([metrics_record("questions", 1)]))
    assert ">0</text>" in text and ">1</text>" in text and ">layer.0.query</th>" in text
    assert "No error to show" in merging(records([metrics_record("spam", 1, aggregation_error=None)]))


@pytest.mark.parametrize(
    ("client", "rank"), [("phone-1", "4"), ("laptop-2", "0: 8, 1: 16"), ("desk", "8"), ("all", "n/a")]
)
def test_rank_of_a_client_comes_from_its_template_or_the_default(client, rank):
    config = {
        "lora": {"rank": 8},
        "clients": {"phone-1": {"rank": 4}, "laptop": {"rank": {"0": 8, "1": 16}}, "desk": {"rank": None}},
    }
    assert clients.rank_of(records(manifest={"config": config}), client) == rank


def test_the_table_of_clients_says_what_is_counted():
    lines = [client_record("a", "questions", r) for r in (1, 2)]
    manifest = {"data": {"questions": {"local_test": 7}}}
    text = clients.every_client(records([metrics_record("questions", 1)], lines, manifest=manifest))
    assert ">examples seen</th>" in text and ">128</td>" in text
    assert "a row as often as it was seen" in text and "over all its clients questions has 7 rows" in text


def test_a_memory_picture_of_many_clients_says_what_it_leaves_out():
    def shown(held):
        return memory(records(memory=memory_record(held)))

    few = {f"c{i}": holder() for i in range(MAX_BARS)}
    assert "Not shown" not in shown(few) and "by kind" not in shown(few)
    kinds = {f"phone-{i}": holder() for i in range(100)} | {f"laptop-{i}": holder() for i in range(20)}
    assert "120 clients by kind; a bar shows the client of its kind with the largest total." in shown(kinds)
    singles = {f"c{i}": holder(activations=1000 * i) for i in range(35)}
    assert "Not shown: 5 clients in 5 bars with smaller totals." in shown(singles)


def test_tables_of_very_many_clients_are_bounded_and_say_so(monkeypatch):
    monkeypatch.setattr(elements, "MAX_ROWS", 40)
    for count in (40, 41):
        lines = [client_record(f"c-{i:03}", "questions", 1) for i in range(count)]
        last = {"assignment": {f"c-{i:03}": "one" for i in range(count)}, "agreement": None, "moved": []}
        for shown, file in (
            (clients.every_client(records([metrics_record("questions", 1)], lines)), "clients.jsonl"),
            (clusters(records(clusters=[{"round": 0, "by": "single", **last}])), "clusters.jsonl"),
        ):
            assert len(set(re.findall(r"c-\d{3}", shown))) == 40
            assert f": {count} rows" in shown
            assert (f"; the first 40 are shown, {file} has all" in shown) == (count > 40)


def test_a_page_of_thousands_of_clients_and_rounds_stays_small():
    names = [f"phone-{i}" for i in range(3000)]
    metrics = [
        metrics_record("questions", r, participants=names[:20], dropped={n: "late" for n in names[20:40]})
        for r in range(4)
    ]
    labels = {"labels": {str(i): i + 1 for i in range(50)}}
    lines = [client_record(name, "questions", 0, **labels) for name in names]
    many = records(metrics * 1, lines, memory=memory_record({name: holder() for name in names}))
    text = page_of(many)
    assert len(text) < 1_000_000
    assert "2,970 more clients and 38 rarer classes; clients.jsonl has all" in text
    long = records([metrics_record("questions", 1) | {"round": r} for r in range(5000)])
    assert len(page_of(long)) < 500_000


def test_rows_of_the_data_add_up():
    """Training rows, clients' local tests and the test part stand side by side."""
    data = {"origin": "files d.csv", "train": 1044, "local_test": 5, "test": 12, "classes": ["a", "b"], "sha256": "0"}
    shown = re.sub(r"<[^>]+>", " ", facts({"data": {"g": data}}))
    assert "local tests" in shown and re.search(r"files d\.csv\s+1,044\s+5\s+12\s+a, b", shown)
