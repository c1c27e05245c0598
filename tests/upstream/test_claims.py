"""Notes of which files are ours: whatever they are called, and whoever else notes at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from upstream.claims import MARK, claim, refuse_others, remove, unclaim_missing
from upstream.errors import FormatError, InputError


@pytest.mark.parametrize("name", ["plain.txt", "a/b.txt", "two\nlines.txt", "a\rb.txt", os.fsdecode(b"latin-\xfc.txt"),
                                  '"quoted".txt', "\\n.txt", "你好.txt"])
def test_files_of_any_name_are_ours_once_claimed(tmp_path, name):
    claim(tmp_path, [name, "another"])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("ours")
    refuse_others(tmp_path, [name])
    remove(tmp_path, [name])
    (tmp_path / name).write_text("somebody's")
    with pytest.raises(InputError, match="nothing notes that hubertkit wrote it"):
        refuse_others(tmp_path, [name])


def test_a_line_of_a_name_is_not_a_name(tmp_path):
    """A bug once found: a transcript called `two\\nlines.txt` gave away somebody's `lines.txt`."""
    claim(tmp_path, ["two\nlines.txt"])
    (tmp_path / "lines.txt").write_text("somebody's")
    with pytest.raises(InputError, match="is there already"):
        claim(tmp_path, ["lines.txt"])


def test_notes_of_before_are_read(tmp_path):
    (tmp_path / MARK).write_text('a.txt\n"b\n', encoding="utf-8")
    for name in ("a.txt", '"b'):
        (tmp_path / name).write_text("ours")
        refuse_others(tmp_path, [name])


def test_those_who_note_at_the_same_time_lose_nothing(tmp_path):
    names = [f"{number}.txt" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: claim(tmp_path, [name]), names))
    assert sorted((tmp_path / MARK).read_text().split()) == sorted(names)


def test_what_could_not_be_made_is_nobodys(tmp_path):
    claim(tmp_path, ["made.txt", "not-made.txt"])
    (tmp_path / "made.txt").write_text("ours")
    unclaim_missing(tmp_path, ["made.txt", "not-made.txt"])
    (tmp_path / "not-made.txt").write_text("somebody's, by hand")
    refuse_others(tmp_path, ["made.txt"])
    with pytest.raises(InputError, match=r"not-made.txt: is there already"):
        refuse_others(tmp_path, ["not-made.txt"])


def test_notes_that_are_no_text_are_named(tmp_path):
    (tmp_path / MARK).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="no list of names of files"):
        claim(tmp_path, ["a"])


def test_nothing_is_removed_from_a_folder_that_is_not_there(tmp_path):
    remove(tmp_path / "none", ["a"])
    assert not (tmp_path / "none").exists()
