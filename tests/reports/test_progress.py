import io

import pytest
from support.made_up_run import metrics_record

from atlas_cli.reports.on_round import calling
from atlas_cli.reports.progress import LiveProgress, PlainProgress, progress_for, round_line
from atlas_cli.reports.terminal import Terminal


def rows(round_):
    return [metrics_record("questions", round_), metrics_record("spam", round_, examples=300, samples_per_second=100.0)]


def test_plain_prints_one_unwrapped_line_a_round():
    out = io.StringIO()
    with progress_for(Terminal(file=out, width=20)) as progress:
        assert type(progress) is PlainProgress
        progress.start(3, 8, ["questions", "spam"])
        progress.round_end(0, [metrics_record("questions", 0)])
        progress.step(1, 1, {"questions": 1.0}, 8)
        progress.note("kept [as] it is")
        progress.round_end(1, rows(1))
    assert out.getvalue().splitlines() == [
        "round 0/3  questions accuracy 0.167  0 MB up",
        "kept [as] it is",
        # 1,100 examples in 800 / 400 + 300 / 100 = 5 s of training
        "round 1/3  questions loss 1.000 accuracy 0.500  spam loss 1.000 accuracy 0.900  220 samples/s  2.40 MB up",
    ]


def test_a_round_without_evaluation_shows_no_metric():
    line = round_line(2, 3, [metrics_record("spam", 2, test={}, bytes_up=12_345)])
    assert line == "round 2/3  spam loss 0.667  400 samples/s  0.012 MB up"


def test_live_display_tells_round_step_loss_rate_and_time_left():
    now = [0.0]
    console = Terminal(file=io.StringIO(), force_terminal=True, width=100)
    progress = LiveProgress(console, clock=lambda: now[0])
    assert isinstance(progress_for(console), LiveProgress)
    with progress:
        progress.start(2, 4, ["questions", "spam"])
        now[0] = 30.0  # evaluation before training: no part of the pace
        progress.round_end(0, [])
        for step in (1, 2, 3):
            now[0] += 2.0
            progress.step(1, step, {"questions": 0.5 / step}, 16)
        shown = Terminal(file=io.StringIO(), width=100)
        shown.print(progress.render())
    text = shown.file.getvalue()
    assert "round 1/2  step 3/4  8 samples/s  10 s left" in text
    assert "questions  loss 0.167" in text
    assert "spam       loss -" in text
    progress.stop()  # twice is allowed


def test_live_display_of_a_resumed_run_uses_only_its_own_steps():
    now = [100.0]
    progress = LiveProgress(Terminal(file=io.StringIO(), force_terminal=True), clock=lambda: now[0])
    with progress:
        progress.start(10, 4, ["spam"])
        now[0] += 3.0
        progress.step(10, 1, {"spam": 1.0}, 8)
        shown = Terminal(file=io.StringIO(), width=100)
        shown.print(progress.render())
    assert "round 10/10  step 1/4  3 samples/s  9 s left" in shown.file.getvalue()


def test_stop_follows_an_error():
    progress = LiveProgress(Terminal(file=io.StringIO(), force_terminal=True))
    with pytest.raises(RuntimeError), progress:
        progress.start(1, 1, [])
        raise RuntimeError
    assert progress.live is None


def test_a_file_is_told_how_far_something_is_that_takes_long_ever_less_often():
    out, now, logged = io.StringIO(), [0.0], []
    progress = PlainProgress(Terminal(file=out), clock=lambda: now[0])
    progress.keep(logged.append)
    progress.doing("reading")
    now[0] = 60.0
    progress.doing("reading")  # nothing is counted
    for done in range(0, 2000, 5):
        progress.doing("writing adapters/", done, 2000)
        now[0] += 0.25
    progress.doing("syncing adapters/, files", 1, 5)  # another begins
    lines = ["200", "400", "800", "1,600"]  # after 10, 20, 40 and 80 s
    assert out.getvalue().splitlines() == logged == [f"writing adapters/: {done} of 2,000" for done in lines]


def test_live_display_counts_what_is_done_after_the_rounds():
    progress = LiveProgress(Terminal(file=io.StringIO(), force_terminal=True))
    with progress:
        progress.start(1, 1, ["spam"])
        for done in (1, 1234):
            progress.doing("writing adapters/", done, 10_402)
        shown = Terminal(file=io.StringIO(), width=100)
        shown.print(progress.render())
    assert shown.file.getvalue().strip().endswith("writing adapters/: 1,234 of 10,402")


def test_a_display_that_calls_for_each_round_counts_as_the_one_that_it_shows():
    now, out = [0.0], io.StringIO()
    progress = calling(PlainProgress(Terminal(file=out), clock=lambda: now[0]), lambda records: None)
    for now[0] in (0.0, 10.0):
        progress.doing("writing adapters/", 3, 4)
    assert out.getvalue() == "writing adapters/: 3 of 4\n"
