"""Progress: how long the rest takes, by what was done since the run began."""

import errno
import io

import pytest
from rich.console import Console

from upstream import progress as module
from upstream.errors import Interrupted
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
    monkeypatch.setattr(module, "_draws", lambda: True)
    with progress("training", 1000, done=400) as report:
        report(500, note="loss 2")
    assert "50%" in screen.file.getvalue()
    assert "40%" in screen.file.getvalue()


def test_a_name_does_not_steer_the_terminal_nor_become_a_picture(capsys):
    say("\x1b]0;title\x07 spk:a:001 [red]x[/red] ö\x9b")
    assert capsys.readouterr().err == "\\x1b]0;title\\x07 spk:a:001 [red]x[/red] ö\\x9b\n"


class Stream(io.StringIO):
    def __init__(self, terminal=False, fault=None):
        super().__init__()
        self.terminal, self.fault = terminal, fault

    def isatty(self):
        return self.terminal

    def write(self, text):
        if self.fault is not None:
            raise self.fault
        return super().write(text)


@pytest.mark.parametrize("stream", [None, Stream(fault=BrokenPipeError()), Stream(fault=OSError(28, "full"))])
def test_where_nobody_hears_it_the_work_goes_on(monkeypatch, clock, stream):
    """Ctrl-C under `2>&1 | tee log` ends tee, too: what was to be said then ended a training before it had saved."""
    monkeypatch.setattr("sys.stderr", stream)
    say("stopping after this update")
    with progress("decoding", 10) as report:
        clock.now += 20
        report(4)


@pytest.mark.parametrize(("terminal", "kind", "force", "drawn"), [
    (True, "xterm", "", True), (True, "dumb", "", False), (False, "xterm", "1", False), (False, "xterm", "", False)])
def test_a_bar_is_drawn_on_a_terminal_that_can_and_nowhere_else(monkeypatch, terminal, kind, force, drawn):
    """On a dumb terminal rich draws nothing, and with FORCE_COLOR it filled log files with its animation."""
    monkeypatch.setattr("sys.stderr", Stream(terminal))
    monkeypatch.setenv("TERM", kind)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if force:
        monkeypatch.setenv("FORCE_COLOR", force)
    assert module._draws() is drawn


def test_a_terminal_that_is_closed_does_not_end_the_work(monkeypatch):
    """Input/output error, in the place of what a training says when it has saved."""
    class Terminal(io.StringIO):
        closed_for_good = False

        def write(self, text):
            if self.closed_for_good:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(text)

    terminal = Terminal()
    monkeypatch.setattr(module, "console", lambda: Console(file=terminal, force_terminal=True, width=100))
    monkeypatch.setattr(module, "_draws", lambda: True)

    def work():
        with progress("training", 10) as report:
            terminal.closed_for_good = True
            report(5)
            raise Interrupted("saved")

    with pytest.raises(Interrupted):
        work()
