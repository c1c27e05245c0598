"""What two sets share, by ids and by audio."""

from pathlib import Path

import pytest

from downstream.score.shared import copied_audio, refuse_shared, shared_audio, shared_ids
from upstream.audio.manifest import Manifest, Utterance
from upstream.errors import InputError


def spans(tmp_path: Path, *given: tuple[str, str, int, int]) -> Manifest:
    """Of (id, file, start, samples)."""
    for _, file, _, _ in given:
        (tmp_path / file).touch()
    return Manifest.of([Utterance(id, tmp_path / file, start, samples, 16_000, 1)
                        for id, file, start, samples in given], "a test")


def test_utterances_of_both_sets_are_counted_and_the_first_one_named():
    refuse_shared(["a", "b"], {"c"}, "here", "are there")
    refuse_shared([], {"c"}, "here", "are there")
    with pytest.raises(InputError, match=r"^here: 2 of 3 utterances, b the first, are there, which makes the score"):
        refuse_shared(["a", "b", "c"], ["c", "d", "b"], "here", "are there")


def test_audio_is_shared_where_spans_of_a_file_overlap(tmp_path):
    other = spans(tmp_path, ("1", "x.wav", 0, 100), ("2", "x.wav", 200, 100), ("3", "y.wav", 0, 100))
    own = spans(tmp_path, ("before", "x.wav", 100, 100), ("within", "x.wav", 250, 10), ("over", "x.wav", 90, 20),
                ("same", "y.wav", 0, 100), ("around", "x.wav", 150, 300), ("after", "x.wav", 300, 5),
                ("1", "z.wav", 0, 100))
    assert shared_audio(own, other) == ["within", "over", "same", "around"]


def test_recordings_in_one_archive_are_told_apart(tmp_path):
    (tmp_path / "a.tar").touch()

    def inside(id: str, offset: int) -> Manifest:
        return Manifest.of([Utterance(id, tmp_path / "a.tar", 0, 100, 16_000, 1, offset=offset, size=10)], "a test")

    assert shared_audio(inside("a", 512), inside("b", 1536)) == []
    assert shared_audio(inside("a", 512), inside("b", 512)) == ["a"]


def test_a_link_to_a_recording_is_the_recording(tmp_path):
    other = spans(tmp_path, ("1", "x.wav", 0, 100))
    (tmp_path / "link.wav").symlink_to(tmp_path / "x.wav")
    assert shared_audio(spans(tmp_path, ("a", "link.wav", 0, 100)), other) == ["a"]
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    assert shared_audio(spans(tmp_path, ("a", "elsewhere/x.wav", 0, 100)), other) == ["a"]


def test_equal_names_of_other_recordings_are_not_called_shared(tmp_path):
    """train/0000.wav and dev/0000.wav, the one as long as the other."""
    for part, contents in (("train", ("one", "same", "short")), ("dev", ("two", "same", "longer"))):
        for number, content in enumerate(contents):
            (tmp_path / f"{part}{number}").write_text(content)
    train, dev = (spans(tmp_path, *((str(i), f"{part}{i}", 0, 100) for i in range(3))) for part in ("train", "dev"))
    assert shared_ids(train, dev) == (["1"], ["0", "2"])


def test_parts_of_a_recording_are_shared_where_they_overlap(tmp_path):
    train = spans(tmp_path, ("a", "x.wav", 0, 100), ("b", "x.wav", 200, 100))
    dev = spans(tmp_path, ("a", "x.wav", 100, 100), ("b", "x.wav", 100, 101), ("c", "x.wav", 0, 100))
    assert shared_ids(train, dev) == (["b"], ["a"])


def test_copies_of_a_file_are_told_by_their_bytes_whatever_their_names(tmp_path):
    """Of the first and last 64 KiB the manifests know a sum: files that differ between these are read, and differ."""
    ends, middle = bytes(range(256)) * 256, b"m" * 1000
    for name, content in (("one", ends + middle + ends), ("copy", ends + middle + ends), ("like", ends * 2 + middle),
                          ("other", ends + b"n" * 1000 + ends), ("empty", b""), ("nothing", b"")):
        (tmp_path / f"{name}.wav").write_bytes(content)
    own = spans(tmp_path, ("a", "one.wav", 0, 100), ("b", "one.wav", 100, 100), ("e", "empty.wav", 0, 100))
    others = spans(tmp_path, ("x", "copy.wav", 150, 100), ("y", "copy.wav", 200, 100), ("z", "other.wav", 0, 100),
                   ("l", "like.wav", 0, 100), ("n", "nothing.wav", 0, 100), ("s", "one.wav", 0, 100))
    assert next(own.looks()) == list(others.looks())[2], "the middle alone tells them apart"
    assert copied_audio(own, others) == [("b", "x")]
    assert copied_audio(others, own) == [("x", "b")]
    (tmp_path / "copy.wav").unlink()
    assert copied_audio(own, others) == [], "what is gone is named when it is heard"


def test_a_copy_of_a_recording_inside_an_archive_is_one(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"sound" * 100)
    (tmp_path / "a.tar").write_bytes(b"h" * 512 + b"sound" * 100 + b"noise" * 100)

    def inside(offset):
        return Manifest.of([Utterance("x", tmp_path / "a.tar", 0, 100, 16_000, 1, offset=offset, size=500)], "a test")

    plain = spans(tmp_path, ("a", "a.wav", 0, 100))
    assert copied_audio(plain, inside(512)) == [("a", "x")]
    assert copied_audio(inside(512), plain) == [("x", "a")]
    assert copied_audio(plain, inside(1012)) == []


def test_a_manifest_without_a_look_into_its_files_has_no_copies_that_are_found(tmp_path):
    """As other programs write them, and we did once."""
    for name in ("one", "copy"):
        (tmp_path / f"{name}.wav").write_bytes(b"sound")
    own, other = (spans(tmp_path, (name, f"{name}.wav", 0, 100)) for name in ("one", "copy"))
    assert copied_audio(own, other) == [("one", "copy")]
    blind = Manifest(other._table.drop_columns("crc"), "/", "a test")
    assert copied_audio(own, blind) == copied_audio(blind, own) == []
