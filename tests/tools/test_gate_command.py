"""`hubertkit teacher gate` from outside."""

import json

import numpy as np
import pytest
import soundfile

from tools.main import run
from upstream.audio import import_folder
from upstream.teacher.units import UnitsWriter


@pytest.fixture
def made(tmp_path):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "u.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    import_folder(tmp_path / "audio").save(tmp_path / "m.arrow")
    for name, labels, teacher in (("good", np.arange(49) % 3, "a"), ("flat", np.arange(49) // 48, "a"),
                                  ("other", np.arange(49) % 3, "b"), ("short", np.arange(48) % 3, "a")):
        with UnitsWriter(tmp_path / name, (int(labels.max()) + 1,), {"teacher_hash": teacher * 64}) as writer:
            writer.add("u", labels)
    return tmp_path


def call(capsys, folder, units, *words):
    code = run(["teacher", "gate", str(folder / units), str(folder / "m.arrow"), *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_good_units_pass_with_their_counts(capsys, made):
    code, out, _ = call(capsys, made, "good", "--valid", made / "good")
    assert code == 0
    assert out.splitlines()[0] == "stream 0: 3 of 3 classes in use, class 0 has 34.7% of 49 frames"
    assert out.splitlines()[1].endswith("good: passed for 1 utterances")
    code, out, _ = call(capsys, made, "good", "--json")
    assert json.loads(out)["streams"][0]["largest_share"] == 0.3469


@pytest.mark.parametrize(("units", "words", "code", "says"), [
    ("short", [], 1, "u: 48 labels for 16000 samples, expected 49"),
    ("flat", [], 1, "class 0 has 98.0% of the frames"),
    ("good", ["--most-share", "0.3"], 1, "gate check `share`"),
    ("flat", ["--overrule", "share"], 0, ""),
    ("good", ["--valid", "other"], 1, "units of teacher bbbbbbbbbbbb"),
    ("good", ["--valid", "other", "--overrule", "share,teacher"], 0, ""),
    ("good", ["--overrule", "counts"], 2, "must be one of unused, share, teacher"),
    ("none", [], 1, "no units.json"),
])
def test_what_fails_is_named_and_may_be_overruled(capsys, made, units, words, code, says):
    found, _, err = call(capsys, made, units, *(made / w if w == "other" else w for w in words))
    assert found == code
    assert says in err
    assert err.count("\n") == (code > 0)
