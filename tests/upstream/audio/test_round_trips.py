"""Whatever a manifest holds comes back from the lists of others, as far as those have a place for it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from upstream.audio import Manifest, Utterance
from upstream.audio.corpora.fairseq import export_fairseq, import_fairseq
from upstream.audio.corpora.kaldi import export_kaldi, import_kaldi
from upstream.audio.corpora.nemo import export_nemo, import_nemo
from upstream.errors import InputError

FILES = {"a": (8000, 12_345), "b": (16_000, 16_000), "c d": (44_100, 50_001)}  # rate and samples
word = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="\ufeff"), min_size=1,
               max_size=8)
name = st.text("abcXYZ019-_.é", min_size=1, max_size=10)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for stem, (rate, samples) in FILES.items():
        soundfile.write(folder / f"{stem}.wav", np.zeros(samples), rate)
    return folder


@st.composite
def utterances(draw, whole=False):
    """Parts of the files, or whole ones, with any ids and texts."""
    stems = draw(st.lists(st.sampled_from(sorted(FILES)), min_size=1, max_size=3 if whole else 6, unique=whole))
    ids = draw(st.lists(name, min_size=len(stems), max_size=len(stems), unique=True))
    found = []
    for stem, identity in zip(stems, ids):
        rate, samples = FILES[stem]
        start = 0 if whole else draw(st.integers(0, samples - 1))
        length = samples if whole else draw(st.integers(1, samples - start))
        text = draw(st.none() | st.lists(word, min_size=1, max_size=4).map(" ".join))
        found.append(Utterance(identity, Path(f"{stem}.wav"), start, length, rate, 1, draw(st.none() | name), text))
    return found


def there(files, rows):
    return [replace(u, audio=files / u.audio) for u in rows]


@given(rows=utterances())
def test_nemo_brings_everything_back_to_the_sample(files, tmp_path_factory, rows):
    rows = there(files, rows)
    path = export_nemo(Manifest.of(rows, "a test"), tmp_path_factory.mktemp("nemo") / "m.jsonl")
    assert list(import_nemo(path)) == rows


@given(rows=utterances())
def test_kaldi_brings_everything_back_sorted_with_a_speaker_for_everybody(files, tmp_path_factory, rows):
    rows = there(files, rows)
    folder, manifest = tmp_path_factory.mktemp("kaldi"), Manifest.of(rows, "a test")
    ids = manifest.ids
    speakers = [(u.speaker or u.id).encode() for u in sorted(rows, key=lambda u: u.id.encode())]
    if speakers != sorted(speakers):  # Kaldi would refuse these ids
        ids = [u.id if u.speaker is None else f"{u.speaker}-{u.id}" for u in rows]
    if len(set(ids)) < len(ids):
        with pytest.raises(InputError, match="two utterances would have this id"):
            export_kaldi(manifest, folder)
        return
    export_kaldi(manifest, folder)
    expected = [replace(u, speaker=u.speaker or u.id, id=id) for u, id in zip(rows, ids)]
    expected.sort(key=lambda u: u.id.encode())
    assert list(import_kaldi(folder)) == expected
    whole = all(u.samples == FILES[u.audio.stem][1] for u in rows) and len({u.audio for u in rows}) == len(rows)
    assert (folder / "segments").exists() != whole


@given(rows=utterances(whole=True))
def test_fairseq_brings_everything_back_but_speakers(files, tmp_path_factory, rows):
    rows = there(files, rows)
    folder = tmp_path_factory.mktemp("fairseq")
    export_fairseq(Manifest.of(rows, "a test"), folder)
    assert list(import_fairseq(folder / "train.tsv")) == [replace(u, speaker=None) for u in rows]
