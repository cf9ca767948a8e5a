"""Reports in Chromium: nothing runs out of the page at any width, no error is logged, print cuts no table."""

import pytest
from support.made_up_run import client_record, first_record, holder, memory_record, message_records, metrics_record

from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.page.report import page_of
from atlas_cli.reports.page.sweep import sweep_page

pytestmark = pytest.mark.browser

LONG = "a-task-group-whose-name-is-as-long-as-names-may-be-and-then-some"
# what is cut off: anything beyond the window, content wider than its box, text beyond its picture
CUT_OFF = """() => {
  const wide = document.documentElement.clientWidth, found = [];
  for (const e of document.body.querySelectorAll('*')) {
    const box = e.getBoundingClientRect(), style = getComputedStyle(e), picture = e.closest('svg');
    if (!box.width || (picture && e.tagName !== 'text' && e !== picture)) continue;
    const around = picture && e !== picture ? picture.getBoundingClientRect() : {left: 0, right: wide};
    if (box.right > around.right + 1 || box.left < around.left - 1) found.push(`${e.tagName} ${e.textContent}`);
    else if (!picture && style.display !== 'inline' && e.scrollWidth > e.clientWidth + 1)
      found.push(`${e.tagName} ${e.className} ${e.textContent}`.slice(0, 80));
  }
  return found;
}"""


def everything():
    """A run with all sections: long names, many clients, devices, faults, an audit and clusters."""
    clients = {f"phone-{i}": "questions" for i in range(33)} | {"desk": "prose", LONG: "spam"}
    groups = ("questions", "spam", "prose")
    clock = {"compute": 1.0, "upload": 2.0, "server": 0.1, "download": 1.0, "wait": 3.0, "finished": 4.0, "joules": 9.0}
    timed = {"simulated_seconds": 7.1, "simulated_joules": 90.0, "dropped": {"phone-3": f"failed: {LONG}"}}
    metrics = [metrics_record(g, r, **(timed if r else {})) for r in range(4) for g in groups]
    metrics += [row | {"task_group": LONG} for row in metrics if row["task_group"] == "spam"]
    lines = [first_record(name, group) for name, group in clients.items()]
    lines += [client_record(name, group, r, simulated=clock) for r in (1, 2) for name, group in clients.items()]
    attack = {"attack": "nearest-embedding", "what": "tokens recovered, share", "channel": "activations"}
    attack |= {"knows": "the frozen model, the adapters delivered, the defence, other text of the task", "note": ""}
    attack |= {"value": 0.74, "low": 0.7, "high": 0.78, "chance": 0.02, "best": 1.0, "floor": 0.1, "examples": 48}
    audit = {"run": "run", "attacks": [attack | {"advantage": 0.8}], "not_measured": {"dager": "no plain gradient"}}
    audit |= {"update_norms": [], "epsilon": {}, "delta": 1e-5, "privacy_score": 0.2}
    agreement = {"ari": 0.25, "nmi": 0.5, "shuffled_ari": 0.125, "shuffled_nmi": 0.4}
    found = {"round": 0, "by": "fingerprints", "agreement": agreement, "moved": [], "assignment": clients}
    check = {
        "examples": 4,
        "padding_tokens": 85,
        "loss_difference": 0.0,
        "gradient_difference": 1e-9,
        "tolerance": 1e-6,
    }
    data = {"origin": f"files {LONG}.csv", "train": 800, "local_test": 9, "test": 200, "classes": [LONG, "b"]}
    device = {"memory": "2 GiB", "compute": "20 GFLOP/s", "uplink": "10 Mbit/s", "downlink": "50 Mbit/s"}
    manifest = {
        "name": LONG,
        "status": "finished",
        "config": {"clients": {name: {"rank": {"0": 8, "1": 16}, "device": "phone-2gib"} for name in clients}},
        "model": {"name": "minilm", "sha256": "0" * 64, "split_layer": 3, "layers": 6},
        "data": {group: data | {"sha256": "0" * 64} for group in (*groups, LONG)},
        "verify": {LONG: check},
        "virtual_clock": {
            "devices": {"phone-2gib": device},
            "server": {"device": "workstation-gpu-16gib", **device},
            "server_assumed": True,
            "notes": [],
        },
        "privacy": {"mechanisms": {"updates": {"channel": "updates", "unit": "client", "clip": 0.5}}},
        "command": ["atlas", "train", f"/{LONG}/{LONG}.yaml"],
    }
    messages = [m for name in clients for r in (0, 1) for m in message_records(name, r)]
    memory = memory_record({name: holder(i) for i, name in enumerate(clients)})
    return RunRecords("run", "runs/run", manifest, metrics, lines, messages, [found], memory, audit)


def a_sweep():
    """Two runs of a group with a long name, over keys with long values."""
    of = {"metric": "accuracy", "better": "higher", "after": 0.5, "bytes_up": 4_000_000, "bytes_down": 1_000_000}
    values = {"seed": 0, "task_groups.questions.data.files": f"data/{LONG}.csv"}
    run = {"values": values, "status": "finished", "run": f"/runs/{LONG}", "error": None, "seconds": 3.0}
    return {"runs": [{"number": n, **run, "task_groups": {LONG: of}} for n in (1, 2)]}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report with all sections, one of a run that failed at once, one of a run that goes on, and that of a sweep."""
    folder, whole = tmp_path_factory.mktemp("pages"), everything()
    failed = {"name": LONG, "status": "failed", "error": f"cannot read /{LONG}/{LONG}/{LONG}.csv"}
    made = {
        "everything": page_of(whole),
        "failed": page_of(RunRecords("run", f"/{LONG}/run", failed, [])),
        "going on": page_of(
            RunRecords("run", "runs/run", whole.manifest | {"status": "running"}, whole.metrics, going_on=True),
            written="2026-01-31 12:00:00 (UTC)",
        ),
        "sweep": sweep_page(folder / "sweep", a_sweep()),
    }
    for name, text in made.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("which", ["everything", "failed", "going on", "sweep"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_and_nothing_fails(browser, pages, which, scheme):
    """At the widths of a laptop, a tablet and a phone, with what opens on a click closed and open."""
    page, said = browser.new_page(color_scheme=scheme), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(pages[which].as_uri())
    for opened in (False, True):
        page.evaluate("open => document.querySelectorAll('details').forEach(each => each.open = open)", opened)
        for width in (1280, 768, 420):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(CUT_OFF) == [], f"{width} pixels"
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    assert said == []
    page.close()


def test_print_is_light_and_cuts_no_table(browser, pages):
    page = browser.new_page(color_scheme="dark", viewport={"width": 718, "height": 1000})  # A4 with margins of 1 cm
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(pages["everything"].as_uri())
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tables = "[...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().width && t.tHead)"
    assert page.evaluate(f"{tables}.every(t => getComputedStyle(t.tHead).display === 'table-header-group')")
    page.close()


def test_files_are_saved_from_a_page_that_lies_on_a_disk(browser, pages, tmp_path):
    page = browser.new_page(accept_downloads=True)
    page.goto(pages["everything"].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    for name in ("SVG", "CSV"):
        with page.expect_download() as caught:
            page.locator(f"a[download]:text-is('{name}')").first.click()
        caught.value.save_as(tmp_path / name)
    assert (tmp_path / "SVG").read_text(encoding="utf-8").startswith("<svg")
    assert (tmp_path / "CSV").read_text(encoding="utf-8").splitlines()[0] == "task group,round,accuracy"
    page.close()
