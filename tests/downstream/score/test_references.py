"""References from manifests and plain files."""

import pytest

from downstream.score.references import read_references
from upstream.audio.manifest import Manifest, Utterance
from upstream.errors import FormatError, InputError, UsageError


def manifest(tmp_path, *columns):
    for id, _, _ in columns:
        (tmp_path / f"{id}.wav").touch()
    path = tmp_path / "m.arrow"
    Manifest.of([Utterance(id, tmp_path / f"{id}.wav", 0, 16000, 16000, 1, speaker, text)
                 for id, speaker, text in columns], "a test").save(path)
    return path


def test_lines_of_id_and_text(tmp_path):
    path = tmp_path / "refs.txt"
    path.write_text("a\tTHE CAT\nb  SAT ON\n\nc\n")
    found = read_references(path)
    assert found.texts == {"a": "THE CAT", "b": "SAT ON", "c": ""}
    assert found.manifest_hash is None
    with pytest.raises(InputError, match="without speakers"):
        found.groups()


def test_a_manifest_gives_texts_and_speakers(tmp_path):
    path = manifest(tmp_path, ("b", "ann", "THE CAT"), ("a", "bob", ""))
    found = read_references(path)
    assert found.texts == {"b": "THE CAT", "a": ""}
    assert found.groups() == ["ann", "bob"]
    assert found.manifest_hash == Manifest.load(path).hash


def test_a_missing_text_or_speaker_is_named(tmp_path):
    with pytest.raises(InputError, match=r"^b: no text .* \(1 of 2"):
        read_references(manifest(tmp_path, ("a", None, "X"), ("b", None, None)))
    with pytest.raises(InputError, match=r"^b: no speaker .*\(1 utterances"):
        read_references(manifest(tmp_path, ("a", "ann", "X"), ("b", None, "Y"))).groups()


@pytest.mark.parametrize(("content", "words"), [
    (b"a X\na Y\n", "line 2: a second text for a"), (b"\n", "no references"), (b"a \xff\n", "not UTF-8")])
def test_broken_files_are_refused(tmp_path, content, words):
    path = tmp_path / "refs.txt"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=words):
        read_references(path)


def test_a_missing_file_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_references(tmp_path / "none.txt")


def test_lines_end_with_newlines_alone(tmp_path):
    """Other programs' texts hold U+2028, U+0085 and form feeds, at which `str.splitlines` parts lines too."""
    path = tmp_path / "refs.txt"
    path.write_bytes("\ufeffa THE\u2028CAT\r\nb SAT\x85ON\nc A\x0cMAT\r\nd\r\n".encode())
    found = {id: text.split() for id, text in read_references(path).texts.items()}
    assert found == {"a": ["THE", "CAT"], "b": ["SAT", "ON"], "c": ["A", "MAT"], "d": []}
