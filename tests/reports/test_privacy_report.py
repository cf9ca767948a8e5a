"""Epsilon in words and on the page: the largest of the groups, with words where there is no number."""

import math
import re

from support.made_up_run import metrics_record

from atlas_cli.reports.page.privacy import privacy
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.privacy import sentence, worst

LAST = [
    metrics_record("spam", 3, epsilon={"updates": 2.5, "activations": "infinite", "labels": 1.0, "fingerprints": 0.0}),
    metrics_record("prose", 3, epsilon={"updates": 3.25, "activations": 9.0, "labels": 1.0, "fingerprints": 0.0}),
]
METRICS = [metrics_record("spam", 2), metrics_record("prose", 2), *LAST]


def test_the_worst_group_counts():
    assert worst(METRICS) == {"updates": 3.25, "activations": math.inf, "labels": 1.0, "fingerprints": 0.0}
    words = "updates 3.250, activations infinite, labels 1.000, fingerprints not sent"
    assert sentence(METRICS) == f"epsilon at delta 1e-05: {words}"


def test_the_page_names_mechanisms_and_what_has_none():
    updates = {"channel": "updates", "unit": "client", "clip": 0.5, "noise_multiplier": 2.0, "protects": "all <that>"}
    nopeek = {"channel": None, "unit": None, "protects": "nothing proven"}
    mechanisms = {"delta": 1e-5, "mechanisms": {"updates": updates, "nopeek": nopeek}}
    page = privacy(RunRecords("run", "runs/run", {"privacy": mechanisms}, METRICS))
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in page.split("<tr>")]
    cells = [row for row in rows if row and row[0] != "channel"]
    assert cells[0] == ["updates", "3.250", "client", "updates", "2 x clip 0.5", "all &lt;that&gt;"]
    assert cells[1] == ["activations", "infinite", "-", "none", "-", "nothing"]
    assert cells[-1] == ["any", "none", "-", "nopeek", "-", "nothing proven"]


def test_without_a_mechanism_there_is_a_sentence_and_no_table():
    page = privacy(RunRecords("run", "runs/run", {}, METRICS[:1]))
    assert "table" not in page and "nothing bounds what updates, activations, labels tell" in page
    assert "Not sent: fingerprints." in page
