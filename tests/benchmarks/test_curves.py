"""The reference curves can be made again, and ship with the package."""

import glob
import re
from pathlib import Path

import pytest
import setuptools

from benchmarks.curves import CURVES, MEASURED, ONE_BY_ONE, SENTENCES, _recipe, train
from benchmarks.results import read_results
from upstream.pretrain_recipe import rounds_of
from upstream.training.monitor import read_metrics
from upstream.training.reference import FOLDER, reference_for

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/curves"
NAMES = sorted(p.stem for p in RESULTS.glob("*.json"))


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """The recordings of the curves."""
    pytest.importorskip("espeakng_loader")
    from tools.demo import NOISE_DB
    from tools.synthesise import VOICES_TRAIN, sentences, synthesise

    return synthesise(tmp_path_factory.mktemp("speech"), sentences(SENTENCES, 0), VOICES_TRAIN, 0, NOISE_DB)


def replayed(speech, folder, updates):
    """Measured now and as they stand in the file, of the first updates. The teacher is the file's too: another
    processor's k-means may end elsewhere."""
    run = train("hubert-tiny", speech, folder, updates,
                f"rounds.0.teacher.imported={RESULTS / 'hubert-tiny-centroids.npy'}")
    now = read_metrics(run / "encoder", "train")
    return list(zip(now, read_results(RESULTS / "hubert-tiny.json")["rows"][:updates], strict=True))


def test_the_first_updates_of_the_tiny_recipe_can_be_made_again(speech, tmp_path):
    recorded = read_results(RESULTS / "hubert-tiny.json")["hashes"]
    assert speech.listing_hash == recorded["recordings"], "espeak-ng has changed"
    for now, row in replayed(speech, tmp_path, 5):
        assert now["update"] == row["update"]
        assert now["loss"] == pytest.approx(row["loss"], rel=1e-5), f"update {row['update']}"


@pytest.mark.slow
def test_fifty_updates_of_the_tiny_recipe_can_be_made_again(speech, tmp_path):
    for now, row in replayed(speech, tmp_path, 50):
        assert now["loss"] == pytest.approx(row["loss"], rel=1e-3), f"update {row['update']}"


@pytest.mark.parametrize("name", NAMES)
def test_a_curve_says_how_it_was_made_and_falls_from_chance(name):
    content = read_results(RESULTS / f"{name}.json")
    assert content["command"].startswith(f"hubertkit bench curves {content['curve']} ")
    rows = content["rows"]
    assert [r["update"] for r in rows[:ONE_BY_ONE]] == list(range(1, ONE_BY_ONE + 1))
    assert all(set(MEASURED) <= set(r) for r in rows)
    assert rows[0]["loss"] == pytest.approx(4.605, abs=0.35)  # ln 100
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2
    assert content["valid"][-1]["loss"] < rows[0]["loss"]


def test_the_curve_of_base_is_of_the_warm_up_that_the_page_names():
    """The recipe had the released yaml's when the curve was made. Its rates of today would make another one."""
    chosen = _recipe("hubert-base", Path("speech.arrow"), CURVES["hubert-base"].updates)
    warmup = rounds_of(chosen)[0].training.optimiser.warmup_updates
    page = (ROOT / "docs/training.md").read_text()
    assert f"| `hubert-base` (6 s an update, warm-up {warmup:,} as published)" in page
    assert chosen.valid_share == 0.05  # what was held out was not trained on


@pytest.mark.parametrize("name", sorted(CURVES))
def test_the_table_of_a_curve_is_what_its_file_holds(name):
    content = read_results(RESULTS / f"{name}.json")
    train, valid = ({r["update"]: r for r in content[part]} for part in ("rows", "valid"))
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    table = page.partition(f"\n| `{name}` (")[2].partition("\n\n")[0].split("\n")
    updates = [int(word) for word in re.findall(r"\| (?:update )?(\d+)", table[0])]
    assert len(updates) > 4
    for line in table[2:]:
        kind, *written = (cell.strip() for cell in line.strip("|").split("|"))
        rows = valid if kind.startswith("validation") else train
        key, digits = ("masked_accuracy", 3) if kind == "masked accuracy" else ("loss", 2)
        expected = [f"{rows[u][key]:.{digits}f}".removeprefix("0") if u in rows else "" for u in updates]
        assert written == expected, kind


def test_there_is_a_curve_of_every_recipe_that_has_one():
    assert set(CURVES) <= set(NAMES)


@pytest.mark.parametrize("name", sorted(CURVES))
def test_the_copy_in_the_package_is_the_same_and_is_packed(name, monkeypatch):
    copy = FOLDER / f"{name}.json"
    assert copy.read_bytes() == (RESULTS / f"{name}.json").read_bytes()
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    exec(compile((ROOT / "setup.py").read_text(encoding="utf-8"), str(ROOT / "setup.py"), "exec"),
         {"__file__": str(ROOT / "setup.py")})
    packed = [f for pattern in given["package_data"]["upstream"] for f in glob.glob(str(ROOT / "upstream" / pattern))]
    assert str(copy) in packed


def test_a_reference_is_found_by_the_shape_of_the_encoder():
    found = reference_for("fbank", 256, 6)
    assert found is not None
    assert found.name == "hubert-tiny"
    assert found.losses[-1] < found.label_entropy
    assert reference_for("fbank", 257, 6) is None
