"""Alignments become units: the class of a frame is the phone at its centre."""

import numpy as np
import pytest
import soundfile

from upstream.audio import import_folder
from upstream.errors import InputError
from upstream.teacher.alignments import frame_phones
from upstream.teacher.phone_units import import_phones
from upstream.teacher.quality import quality


@pytest.fixture
def recordings(tmp_path):
    """`a`: silence to .2 s, then AH; `b`: B all along. Half a second each: 24 frames, centred at .0125 s + n * .02."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for name, lines in (("a", ["a 1 0.0 0.2 sil", "a 1 0.2 0.3 AH1"]), ("b", ["b 1 0.0 0.5 B"])):
        soundfile.write(folder / f"{name}.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 8000), 16_000)
        (folder / f"{name}.ctm").write_text("\n".join(lines) + "\n")
    return folder


def test_a_class_for_each_phone_and_silence_is_0(recordings, tmp_path):
    units = import_phones(recordings, import_folder(recordings), tmp_path / "units")
    assert units.meta["phones"] == ["SIL", "AH", "B"]
    assert units.labels("a").tolist() == [0] * 10 + [1] * 14
    assert units.labels("b").tolist() == [2] * 24
    names = np.array(units.meta["phones"])[units.labels("a")]
    assert names.tolist() == frame_phones(recordings / "a.ctm", 8000).tolist()


def test_phones_are_a_perfect_teacher_of_themselves(recordings, tmp_path):
    units = import_phones(recordings, import_folder(recordings), tmp_path / "units")
    found = quality(units, {i: recordings / f"{i}.ctm" for i in "ab"})
    assert (found.phone_purity, found.cluster_purity, found.pnmi) == (1, 1, pytest.approx(1))


def test_what_does_not_fit_is_named(recordings, tmp_path):
    manifest = import_folder(recordings)
    (recordings / "b.ctm").write_text("b 1 0.0 1.5 B\n")
    with pytest.raises(InputError, match=r"b\.ctm: the alignment ends at 1\.50 s, the recording at 0\.50 s"):
        import_phones(recordings, manifest, tmp_path / "units")
    (recordings / "b.ctm").unlink()
    with pytest.raises(InputError, match=r"^b: no alignment in .*; align it, or leave it out"):
        import_phones(recordings, manifest, tmp_path / "units")
    assert not (tmp_path / "units").exists()
