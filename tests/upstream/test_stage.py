import contextlib
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from upstream.disk import TEMPORARY, content_hash, disk_errors, disk_reason, write_json, writing
from upstream.errors import BusyError, FormatError, HubertkitError, InputError, RankLost, UsageError
from upstream.locks import LOCK, UNFINISHED, filling, locked
from upstream.model.formats.tensors import read_tensors, write_tensors
from upstream.stage import changes, read_stage, run_stage


def stage(folder, calls, settings=None, inputs=None, version=1):
    lines = []

    def work(target):
        calls.append(1)
        (target / "output").write_text("done")
        return {"hash": "abc"}

    result = run_stage(folder, "test", version=version, settings=settings or {"k": 1}, inputs=inputs or {}, work=work,
                       say=lines.append)
    return result, lines


def test_a_done_stage_is_skipped_and_gives_its_result(tmp_path):
    calls = []
    first, _ = stage(tmp_path / "run/a", calls)
    second, lines = stage(tmp_path / "run/a", calls)
    assert first == second == {"hash": "abc"}
    assert len(calls) == 1
    assert lines == ["run/a: done before, skipped"]
    record = read_stage(tmp_path / "run/a")
    assert record["state"] == "done"
    assert record["bytes"] > 0


@pytest.mark.parametrize(("change", "why"), [
    ({"settings": {"k": 2}}, "k 1 -> 2"),
    ({"inputs": {"units": "0123456789abcdef0"}}, "units (none) -> 01234567…"),
    ({"version": 2}, "the stage's version 1 -> 2"),
])
def test_a_stale_stage_is_redone_and_says_why(tmp_path, change, why):
    calls = []
    stage(tmp_path / "a", calls)
    (tmp_path / "a/output").write_text("old")
    _, lines = stage(tmp_path / "a", calls, **change)
    assert len(calls) == 2
    assert why in lines[0]
    assert (tmp_path / "a/output").read_text() == "done"


def test_a_done_stage_whose_output_is_gone_is_redone(tmp_path):
    calls = []
    stage(tmp_path / "a", calls)
    (tmp_path / "a/output").unlink()
    result, lines = stage(tmp_path / "a", calls)
    assert "a: stale (output is missing), redone" in lines[0]
    assert (len(calls), result) == (2, {"hash": "abc"})
    assert (tmp_path / "a/output").read_text() == "done"


def test_a_done_stage_may_lose_what_only_its_making_needed(tmp_path):
    def work(folder):
        (folder / "checkpoints").mkdir()
        (folder / "metrics.jsonl").write_text("{}")
        (folder / "output").write_text("done")
        return {"hash": "abc"}

    lines = []
    for _ in range(2):
        run_stage(tmp_path / "a", "test", version=1, settings={}, inputs={}, work=work, say=lines.append)
        (tmp_path / "a/checkpoints").rmdir() if (tmp_path / "a/checkpoints").exists() else None
        (tmp_path / "a/metrics.jsonl").unlink(missing_ok=True)
    assert lines[-1] == f"{tmp_path.name}/a: done before, skipped"


def refused(folder):
    (folder / "half").write_text("half")
    raise UsageError("dropout=2, must be below 1")


def test_a_stage_that_is_refused_when_done_anew_stays_what_it_was(tmp_path):
    """A bug once found: a wrong value removed the finished encoder, and only then was it refused."""
    calls, lines = [], []
    stage(tmp_path / "a", calls)
    (tmp_path / "a/notes").write_text("mine")
    before = read_stage(tmp_path / "a")
    for _ in range(2):
        with pytest.raises(UsageError, match="dropout=2"):
            run_stage(tmp_path / "a", "test", version=1, settings={"k": 2}, inputs={}, work=refused, say=lines.append)
        assert lines[-1].endswith("a: not done anew; what was there before stays")
        assert read_stage(tmp_path / "a") == before
        assert {p.name for p in (tmp_path / "a").iterdir()} == {"stage.json", "output", "notes"}
    assert "done before, skipped" in stage(tmp_path / "a", calls)[1][0]
    stage(tmp_path / "a", calls, {"k": 3})
    assert len(calls) == 2
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"stage.json", "output", "notes"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RankLost("gone")])
def test_what_a_stopped_mistake_had_put_aside_comes_back(tmp_path, error):
    """A wrong value, Ctrl-C before the first checkpoint, the right value again: the finished encoder was deleted."""
    def stopped(folder):
        (folder / "half").write_text("half")
        (folder / "metrics.jsonl").write_text("of the mistake")
        raise error

    def done(folder):
        (folder / "metrics.jsonl").write_text("of what was done")
        (folder / "output").write_text("done")
        return {"hash": "abc"}

    calls, lines = [1], []
    run_stage(tmp_path / "a", "test", version=1, settings={"k": 1}, inputs={}, work=done, say=print)
    (tmp_path / "a/notes").write_text("mine")
    before = read_stage(tmp_path / "a")
    for settings in ({"k": 2}, {"k": 3}):
        with pytest.raises((KeyboardInterrupt, MemoryError, RankLost)):
            run_stage(tmp_path / "a", "test", version=1, settings=settings, inputs={}, work=stopped, say=lines.append)
        assert read_stage(tmp_path / "a")["state"] == "running"
    assert lines[-2].endswith("not done anew; what was there before stays"), "put aside again"
    _, said = stage(tmp_path / "a", calls)
    assert [line.partition(": ")[2] for line in said] == ["not done anew; what was there before stays",
                                                          "done before, skipped"]
    assert (read_stage(tmp_path / "a"), len(calls)) == (before, 1)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"stage.json", "output", "notes"}


def test_a_training_that_had_begun_is_gone_on_with_and_nothing_taken_back(tmp_path):
    def failed(folder):
        (folder / "checkpoints").mkdir()
        for ending in ("safetensors", "json"):
            (folder / f"checkpoints/update-00000001.{ending}").touch()
        raise HubertkitError("20 updates in a row were not finite")

    stage(tmp_path / "a", [])
    with pytest.raises(HubertkitError):
        run_stage(tmp_path / "a", "test", version=1, settings={"k": 2}, inputs={}, work=failed, say=print)
    assert read_stage(tmp_path / "a")["settings"] == {"k": 2}
    assert (tmp_path / "a/checkpoints").is_dir()
    stage(tmp_path / "a", [], {"k": 2})
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"stage.json", "output", "checkpoints"}


def interrupted(folder):
    (folder / "half").write_text("half")
    raise KeyboardInterrupt


def test_an_unfinished_training_of_another_recipe_is_refused_and_not_thrown_away(tmp_path):
    """One edited word deleted the checkpoints of days."""
    def killed(target):
        (target / "checkpoints").mkdir()
        (target / "checkpoints/update-00000056.safetensors").write_text("days of work")
        (target / "checkpoints/update-00000056.json").write_text("{}")
        raise KeyboardInterrupt

    def begin(updates, work):
        return run_stage(tmp_path / "run/a", "test", version=1, settings={"updates": updates}, inputs={}, work=work,
                         say=lambda line: None)

    with pytest.raises(KeyboardInterrupt):
        begin(300, killed)
    with pytest.raises(UsageError, match=r"a checkpoint of update-00000056, .*\(updates 300 -> 310\); go on with"):
        begin(310, lambda target: {"hash": "h"})
    assert begin(300, lambda target: {"hash": (target / "checkpoints/update-00000056.safetensors").read_text()}) == {
        "hash": "days of work"}
    assert begin(310, lambda target: {"hash": "h"}) == {"hash": "h"}, "what is done may be done anew"


def test_files_of_the_user_in_the_folder_of_a_stale_stage_stay(tmp_path):
    """A bug once found: recordings beside a manifest, emissions in a recogniser's folder, went with a stale stage."""
    stage(tmp_path / "a", [])
    (tmp_path / "a/emissions").mkdir()
    (tmp_path / "a/emissions/logprobs.npy").write_text("mine")
    stage(tmp_path / "a", [], {"k": 2})
    stage(tmp_path / "a", [], {"k": 3})
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "a", "test", version=1, settings={"k": 4}, inputs={}, work=interrupted, say=print)
    stage(tmp_path / "a", [], {"k": 5})
    assert (tmp_path / "a/emissions/logprobs.npy").read_text() == "mine"


@pytest.mark.parametrize("name", ["recording.wav", ".gitignore"])
def test_a_folder_with_files_that_no_stage_wrote_is_refused(tmp_path, name):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).touch()
    calls = []
    with pytest.raises(UsageError, match=rf"a: holds {name} already, which no run of ours wrote"):
        stage(tmp_path / "a", calls)
    assert (tmp_path / "a" / name).exists()
    assert not calls
    (tmp_path / "a" / name).rename(tmp_path / "a/.stage.json.123.tmp")  # of a run that was killed as it began
    (tmp_path / "a/.lock").touch()
    stage(tmp_path / "a", calls)
    assert calls


def test_a_run_killed_when_all_is_cleared_still_knows_what_is_the_users(tmp_path, monkeypatch):
    stage(tmp_path / "a", [])
    (tmp_path / "a/notes.txt").write_text("mine")

    def killed(path, content):
        if content["state"] == "running":
            raise KeyboardInterrupt
        write_json(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("upstream.stage.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            stage(tmp_path / "a", [], {"k": 2})
    stage(tmp_path / "a", [], {"k": 2})
    assert (tmp_path / "a/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("way", ["rename", "unlink", "replace"])
@pytest.mark.parametrize("steps", range(12))
def test_what_was_done_outlives_a_kill_at_any_step_of_being_put_aside_and_back(tmp_path, monkeypatch, steps, way):
    """Killed between two renames, both the old result and the new were cleared away."""
    def done(folder):
        for name in ("one", "two", "three"):
            (folder / name).write_text(name)
        return {"hash": "h"}

    def stopped(folder):
        (folder / "two").write_text("half")
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    def begin(settings, work):
        return run_stage(tmp_path / "a", "test", version=1, settings=settings, inputs={}, work=work, say=lines.append)

    def killed(real):
        left = iter(range(steps))

        def step(*given, **named):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*given, **named)

        return step

    lines = []
    begin({"k": 1}, done)
    (tmp_path / "a/notes").write_text("mine")
    owner = os if way == "replace" else Path
    for settings in ({"k": 2}, {"k": 1}):  # put aside, then back: each is killed after some steps
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(owner, way, killed(getattr(owner, way)))
            begin(settings, stopped)
    assert begin({"k": 1}, done) == {"hash": "h"}
    assert lines[-1].endswith("done before, skipped")
    assert {p.name: p.read_text() for p in (tmp_path / "a").iterdir() if p.name != "stage.json"} == {
        "one": "one", "two": "two", "three": "three", "notes": "mine"}
    begin({"k": 2}, done)
    assert not (tmp_path / "a/.before").exists()


def test_a_first_checkpoint_that_was_being_written_is_none(tmp_path):
    """The folder was made before the file: a full disk there cost the finished stage."""
    def full(folder):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints/update-00000001.safetensors").touch()  # its record comes last
        raise KeyboardInterrupt

    calls = []
    stage(tmp_path / "a", calls)
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "a", "test", version=1, settings={"k": 2}, inputs={}, work=full, say=print)
    stage(tmp_path / "a", calls)
    assert len(calls) == 1
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"stage.json", "output"}


def test_where_something_is_put_aside_nobody_is_told_to_remove_it(tmp_path):
    def trained(folder):
        (folder / "checkpoints").mkdir()
        for ending in ("safetensors", "json"):
            (folder / f"checkpoints/update-00000001.{ending}").touch()
        raise KeyboardInterrupt

    calls = []
    stage(tmp_path / "a", calls)
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "a", "test", version=1, settings={"k": 2}, inputs={}, work=trained, say=print)
    with pytest.raises(UsageError, match=r"or remove .*a/checkpoints to have again what was done there before"):
        stage(tmp_path / "a", calls)
    shutil.rmtree(tmp_path / "a/checkpoints")
    stage(tmp_path / "a", calls)
    assert len(calls) == 1


def test_a_folder_of_another_kind_of_stage_is_not_touched(tmp_path):
    """Found in review: `finetune --out round1/encoder` erased the encoder."""
    stage(tmp_path / "a", [])
    with pytest.raises(UsageError, match="holds the test of another run"):
        run_stage(tmp_path / "a", "other", version=1, settings={}, inputs={}, work=lambda folder: {}, say=print)
    assert (tmp_path / "a/output").read_text() == "done"


def test_a_mistake_leaves_no_folder_that_it_made(tmp_path):
    with pytest.raises(UsageError), locked(tmp_path / "new"):
        raise UsageError("encoder=nowhere: there is no such file")
    assert not (tmp_path / "new").exists()
    with locked(tmp_path / "used"):
        (tmp_path / "used" / "recipe.yaml").touch()
    assert (tmp_path / "used" / "recipe.yaml").exists()
    (tmp_path / "old").mkdir()
    with locked(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()


def test_a_lock_that_is_removed_while_it_is_waited_for_is_none(tmp_path, monkeypatch):
    """Else two processes could hold a run: one the file that was removed, one that which is in its place."""
    plain = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        (tmp_path / LOCK).rename(tmp_path / "removed")
        (tmp_path / LOCK).touch()
        plain(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(BusyError), locked(tmp_path):
        pytest.fail("it was held")


@pytest.fixture
def switching():
    """Threads take turns at nearly every step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(("module", "step", "when"), [(os, "open", "before"), (fcntl, "flock", "before"),
                                                      (fcntl, "flock", "after")])
def test_a_folder_that_is_removed_while_it_is_taken_is_taken_again(tmp_path, monkeypatch, module, step, when):
    """Who left it had found it unused: it was said that there is no such folder, or a traceback ended the run."""
    run, plain, removed = tmp_path / "run", getattr(module, step), []
    run.mkdir()

    def late(*given, **named):
        mine = not removed
        removed.append(step)
        if mine and when == "before":
            shutil.rmtree(run)
        result = plain(*given, **named)
        if mine and when == "after":
            shutil.rmtree(run)
        return result

    monkeypatch.setattr(module, step, late)
    with locked(run):
        monkeypatch.undo()
        assert (run / LOCK).is_file()
        with pytest.raises(BusyError), locked(run):
            pytest.fail("it was held twice")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_is_there_is_taken_where_none_may_be_made_beside_it(tmp_path, monkeypatch, number):
    """Some file systems look at what is allowed before they look at what is there."""
    (tmp_path / "run").mkdir()

    def refused(*given, **named):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", refused)
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()
    with pytest.raises(HubertkitError, match="read-only" if number == errno.EROFS else "no permission"), \
            locked(tmp_path / "other"):
        pytest.fail("it was held")


def test_many_starters_at_the_same_moment_are_one_after_the_other_or_refused(tmp_path, switching):
    """Some found the folder gone between its making and its lock, or the lock of another in it."""
    run, inside, found, together = tmp_path / "run", [], [], threading.Barrier(4)

    def start(number):
        together.wait()
        for _ in range(150):
            try:
                with locked(run):
                    inside.append(number)
                    found.append(list(inside))
                    time.sleep(1e-5)
                    inside.remove(number)
            except BusyError:
                found.append([])
            except BaseException as error:
                found.append(error)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one for one in found if isinstance(one, BaseException) or len(one) > 1] == []
    assert max(map(len, found)) == 1
    assert not run.exists() or list(run.iterdir()) == [run / LOCK]  # who was refused may have made it


def test_a_folder_that_is_filled_takes_no_other_processs(tmp_path, monkeypatch):
    """What lay hidden under the old name after the rename was removed, with the lock of who had come just then."""
    plain = os.unlink

    def late(path, *given, **named):
        if Path(path) == tmp_path / "out" / LOCK:
            (tmp_path / f".out{UNFINISHED}").mkdir()
        plain(path, *given, **named)

    monkeypatch.setattr(os, "unlink", late)
    with filling(tmp_path / "out") as hidden:
        (hidden / "file").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    assert (tmp_path / f".out{UNFINISHED}").is_dir()


def test_a_filling_that_failed_removes_nothing_of_who_comes_next(tmp_path, monkeypatch):
    """The lock may have gone before the files, and then a file of the same name that another had written since."""
    hidden, left, plain = tmp_path / f".out{UNFINISHED}", [], os.unlink

    def noted(path, *given, **named):
        if Path(path).name == LOCK:
            left.append([found.name for found in hidden.iterdir()])
        plain(path, *given, **named)

    def fill():
        with filling(tmp_path / "out"):
            for number in range(20):
                (hidden / f"file{number}").touch()
            (hidden / "part").mkdir()
            monkeypatch.setattr(os, "unlink", noted)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill()
    assert left == [[LOCK]]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_outlives_the_emptying_of_a_stale_stage(tmp_path):
    """Found in review: the lock went with the stale files, and a second process was let in."""
    stage(tmp_path, [])
    with locked(tmp_path):
        stage(tmp_path, [], settings={"k": 2})
        with pytest.raises(BusyError), locked(tmp_path):
            pass


def test_an_interrupted_stage_finds_what_it_left(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "a", "test", version=1, settings={}, inputs={}, work=interrupted, say=print)
    assert read_stage(tmp_path / "a")["state"] == "running"

    def goes_on(folder):
        return {"hash": (folder / "half").read_text()}

    result = run_stage(tmp_path / "a", "test", version=1, settings={}, inputs={}, work=goes_on, say=print)
    assert result == {"hash": "half"}


def test_the_time_of_a_stage_that_was_killed_is_that_of_all_calls(tmp_path):
    """A bug once found: of a training that was killed and went on, only the last call's time was told."""
    folder, lines = tmp_path / "a", []

    def killed(target):
        (target / "checkpoints").mkdir(exist_ok=True)
        (target / "checkpoints/last").write_text("half")
        raise KeyboardInterrupt

    for hour in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run_stage(folder, "test", version=1, settings={"k": 1}, inputs={}, work=killed, say=lines.append)
        later = (folder / "stage.json").stat().st_mtime + 3600 * hour
        os.utime(folder / "checkpoints/last", (later, later))
    _, said = stage(folder, [])
    assert [line.partition(": ")[2] for line in said] == ["interrupted before, going on",
                                                          "done in 180.0 min, 0.0 s of it now"]
    record = read_stage(folder)
    assert record["seconds"] == pytest.approx(3 * 3600, abs=5)
    assert "worked" not in record


def test_what_somebody_put_beside_a_killed_stage_does_not_count_as_its_time(tmp_path):
    calls, folder = [], tmp_path / "a"
    stage(folder, calls)
    (folder / "notes").write_text("mine")

    def killed(target):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(folder, "test", version=1, settings={"k": 2}, inputs={}, work=killed, say=print)
    os.utime(folder / "notes", (2e9, 2e9))
    stage(folder, calls, {"k": 2})
    assert read_stage(folder)["seconds"] < 60


def test_tuples_and_lists_in_settings_are_the_same_key(tmp_path):
    calls = []
    stage(tmp_path / "a", calls, settings={"layers": (1, 2)})
    stage(tmp_path / "a", calls, settings={"layers": [1, 2]})
    assert len(calls) == 1


def test_changes_are_counted_beyond_four():
    before = {"version": 1, "settings": {str(i): 0 for i in range(6)}, "inputs": {}}
    now = {"version": 1, "settings": {str(i): 1 for i in range(6)}, "inputs": {}}
    assert changes(before, now).endswith("and 2 more")


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    code = ("import time; from upstream.locks import locked\n"
            f"with locked({str(tmp_path)!r}):\n print(1, flush=True); time.sleep(60)")
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(BusyError, match="another process"), locked(tmp_path):
        pass
    other.kill()
    other.wait()
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()


@pytest.mark.parametrize(("code", "kind", "says"), [
    (errno.ENOSYS, HubertkitError, "its file system has no locks"), (errno.ENOLCK, HubertkitError, "has no locks"),
    (errno.EAGAIN, BusyError, "another process works"), (errno.EACCES, BusyError, "another process works")])
def test_a_file_system_without_locks_is_no_other_process(tmp_path, monkeypatch, code, kind, says):
    def flock(*given):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("upstream.locks.fcntl.flock", flock)
    with pytest.raises(HubertkitError, match=says) as caught, locked(tmp_path / "run"):
        pass
    assert type(caught.value) is kind


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def fail():
        with writing(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_one_line(tmp_path, code):
    with pytest.raises(HubertkitError) as caught, disk_errors(tmp_path):
        raise OSError(code, "reason", str(tmp_path / "x"))
    assert str(tmp_path / "x") in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_full_disk_under_safetensors_is_one_line_too(tmp_path):
    """Found on a small file system: safetensors raises its own error, with the number in the text."""
    with pytest.raises(HubertkitError, match="disk is full"), disk_errors(tmp_path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError), disk_errors(tmp_path):
        raise SafetensorError("invalid header")


def test_other_os_errors_are_not_disguised(tmp_path):
    with pytest.raises(IsADirectoryError), disk_errors(tmp_path):
        raise IsADirectoryError(errno.EISDIR, "is a directory")


def test_a_full_disk_in_a_stage_keeps_the_stage_unfinished(tmp_path):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(HubertkitError, match="disk is full"):
        run_stage(tmp_path / "a", "test", version=1, settings={}, inputs={}, work=full, say=print)
    assert read_stage(tmp_path / "a")["state"] == "running"


def test_a_broken_stage_record_is_named(tmp_path):
    (tmp_path / "stage.json").write_text("{")
    with pytest.raises(FormatError, match=r"stage\.json"):
        read_stage(tmp_path)
    (tmp_path / "stage.json").write_text("{}")
    with pytest.raises(FormatError, match="not a stage record"):
        read_stage(tmp_path)


def test_nan_never_reaches_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_content_hash_ignores_the_order_of_keys():
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1}) != content_hash({"a": 1, "b": [3]})
    assert json.loads(json.dumps({"a": 1})) == {"a": 1}


@pytest.mark.parametrize("kind", ["device", "folder", "pipe"])
def test_nothing_but_an_ordinary_file_is_replaced(tmp_path, kind):
    """Found by a user: as root, `--out /dev/full` put a file in the place of the device."""
    path = Path("/dev/null") if kind == "device" else tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(UsageError, match=r"a folder; give the name of a file|no ordinary file"), writing(path):
        raise AssertionError("nothing may be written")
    assert not path.is_file()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    error = OSError(errno.ENOENT, "No such file or directory", "/proc/w")
    assert disk_reason(error) == "/proc/w: there is no such folder, and none can be made there; give another"


@pytest.mark.parametrize("content", ["[" * 100_000, f'{{"a": {"9" * 5000}}}', "\xff", "5"])
def test_json_that_is_none_or_no_record_is_named(tmp_path, content):
    (tmp_path / "stage.json").write_text(content, encoding="latin-1")
    with pytest.raises(FormatError, match=r"stage\.json"):
        read_stage(tmp_path)


def test_containers_that_share_a_folder_and_the_number_of_a_process_write_files_of_their_own(tmp_path):
    """In containers every command is process 1: two wrote into one temporary file, and one published the mixture."""
    with writing(tmp_path / "a") as one, writing(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_writing_was_interrupted_at_is_known_by_its_name(tmp_path):
    with writing(tmp_path / "a.b") as one:
        one.write_text("one")
        assert TEMPORARY.fullmatch(one.name)
    assert TEMPORARY.fullmatch(".a.b.17.tmp")


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_flush_folders_is_no_fault(tmp_path, monkeypatch, number, passes):
    """Shared folders of virtual machines answer EINVAL, after a whole file has been written."""
    flush = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, "no")
        flush(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    with contextlib.nullcontext() if passes else pytest.raises(OSError, match="no"), writing(tmp_path / "a") as one:
        one.write_text("one")
    assert (tmp_path / "a").read_text() == "one"


def test_weights_have_the_permissions_of_every_other_file(tmp_path):
    """safetensors makes files that their owner alone may read."""
    write_json(tmp_path / "a.json", {})
    write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.json").stat().st_mode
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_weights_that_may_not_be_read_are_one_line(tmp_path, monkeypatch):
    write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # who runs the tests may read everything
    with pytest.raises(InputError, match=r"a\.safetensors: no permission to read it"):
        read_tensors(tmp_path / "a.safetensors")
