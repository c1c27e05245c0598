"""Progress: how long the rest takes, by what was done since the run began."""

import io

import pytest
from rich.console import Console

from upstream import progress as module
from upstream.progress import progress, say


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told to move on; progress asks for nothing else of `time`."""
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def test_the_time_left_counts_what_was_done_since_the_run_went_on(clock, capsys):
    """A bug once found: a training that went on at update 400 counted these as done in its first seconds."""
    with progress("training", 1000, done=400) as report:
        clock.now += 20
        report(500, note="loss 2")
    assert capsys.readouterr().err == "training: 50%, loss 2, 100 s left\n"


def test_from_the_start_everything_counts(clock, capsys):
    with progress("decoding", 10) as report:
        clock.now += 20
        report(4)
    assert capsys.readouterr().err == "decoding: 40%, 30 s left\n"


def test_nothing_is_said_too_often_or_before_anything_is_done(clock, capsys):
    with progress("decoding", 10, done=5) as report:
        clock.now += 20
        report(5)
        assert capsys.readouterr().err == ""
        report(6)
        clock.now += 1
        report(7)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bar_begins_where_the_run_goes_on(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(module, "console", lambda: screen)
    with progress("training", 1000, done=400) as report:
        report(500, note="loss 2")
    assert "50%" in screen.file.getvalue()
    assert "40%" in screen.file.getvalue()


def test_a_name_does_not_steer_the_terminal_nor_become_a_picture(capsys):
    say("\x1b]0;title\x07 spk:a:001 [red]x[/red] ö\x9b")
    assert capsys.readouterr().err == "\\x1b]0;title\\x07 spk:a:001 [red]x[/red] ö\\x9b\n"
