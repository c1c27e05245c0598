"""Sweeps: one forward pass for each utterance, figures of every frame, and a pick that the figures justify."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from upstream.audio.caching import AudioCache
from upstream.audio.corpora.folder import import_folder
from upstream.audio.manifest import Manifest
from upstream.errors import InputError, UsageError
from upstream.features.source import LayerSource
from upstream.frames import CONV_GRID
from upstream.model import Encoder, EncoderConfig
from upstream.teacher.alignments import find_alignments, frame_phones
from upstream.teacher.quality import quality_of_utterances
from upstream.teacher.sweep import sweep
from upstream.teacher.sweep_plot import plot_sweep

SMALL = {"frontend": "fbank", "width": 32, "layers": 2, "heads": 2, "ffn": 64, "positional_kernel": 16,
         "positional_groups": 4}
TONES = {"A": 300, "B": 900, "C": 2500}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight utterances of two speakers: phones are tones of 120 ms, a little higher with the second speaker."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "audio").mkdir()
    rng = np.random.default_rng(0)
    table = ["path\tspeaker\tid"]
    for number in range(8):
        speaker = "st"[number % 2]
        phones = rng.choice(list(TONES), 30)
        t = np.arange(len(phones) * 1920) / 16_000
        pitch = np.repeat([TONES[p] * (1.1 if speaker == "t" else 1) for p in phones], 1920)
        wave = 0.2 * np.sin(np.cumsum(2 * np.pi * pitch / 16_000)) + rng.normal(0, 0.01, len(t))
        soundfile.write(folder / "audio" / f"u{number}.wav", wave, 16_000)
        table.append(f"u{number}.wav\t{speaker}\tu{number}")
        (folder / f"u{number}.ctm").write_text(
            "".join(f"u 1 {0.12 * i:.2f} 0.12 {p}\n" for i, p in enumerate(phones)))
    (folder / "audio" / "table.tsv").write_text("\n".join(table) + "\n")
    manifest = import_folder(folder / "audio", folder / "audio" / "table.tsv")
    manifest.save(folder / "manifest.arrow")
    return manifest, find_alignments(folder), Encoder(EncoderConfig(**SMALL)).initialise(0).eval()


def swept(data, clusters=(3, 6), **options):
    manifest, alignments, encoder = data
    options = {"alignments": alignments, "read": AudioCache(manifest).wave, "fit_frames": 300} | options
    return sweep(encoder, manifest, clusters, **options)


def test_each_utterance_goes_through_once_and_every_frame_is_judged(data):
    manifest, _, encoder = data
    seconds = []
    hook = encoder.register_forward_hook(lambda _, x, y: seconds.append(y.lengths.sum().item()))
    found = swept(data)
    frames = sum(CONV_GRID.frames(int(n)) for n in manifest.lengths)
    assert sum(seconds) == frames == found.frames
    seconds.clear()
    swept(data, alignments=None)
    hook.remove()
    assert sum(seconds) == 2 * frames  # with its noisy copy
    assert 300 <= found.fit_frames < 300 + 180
    assert [(r.layer, r.clusters) for r in found.rows] == [(i, k) for i in range(3) for k in (3, 6)]


def test_figures_are_those_of_the_labels_of_the_picked_teacher(data, tmp_path):
    """Independent way: label everything with the saved teacher, in another order and batch, and compare with phones."""
    manifest, alignments, encoder = data
    found = swept(data)
    source = LayerSource(encoder, found.layer, "cpu", batch_seconds=1)
    units = found.teacher.label(source, manifest, tmp_path, read=AudioCache(manifest).wave)
    phones = [frame_phones(alignments[u.id], u.length) for u in manifest]
    expected = quality_of_utterances(phones, [np.asarray(units.labels(i)) for i in manifest.ids], 6)
    row = next(r for r in found.rows if (r.layer, r.clusters) == (found.layer, 6))
    assert row.pnmi == pytest.approx(expected.pnmi, abs=0.01)
    assert row.phone_purity == pytest.approx(expected.phone_purity, abs=0.01)
    assert row.pnmi > 0.5  # tones are told apart even by chance weights


def test_the_pick_has_the_highest_measure(data):
    for options in ({}, {"alignments": None}):
        found = swept(data, **options)
        means = {i: np.mean([getattr(r, found.measure) for r in found.rows if r.layer == i]) for i in range(3)}
        assert found.layer == max(means, key=means.get)
        for k, layer in found.best.items():
            values = {r.layer: getattr(r, found.measure) for r in found.rows if r.clusters == k}
            assert values[layer] == max(values.values())
        assert found.teacher.classes == (6,)
        json.dumps(found.as_json(), allow_nan=False)


def test_without_alignments_there_is_stability_and_no_phone(data):
    found = swept(data, alignments=None, snr=200.0)
    assert found.measure == "stability"
    assert found.abx == {}
    for row in found.rows:
        assert row.pnmi is None
        assert row.stability > 0.99  # that noise is below rounding
    noisy = swept(data, alignments=None, snr=0.0)
    assert all(a.stability < b.stability for a, b in zip(noisy.rows, found.rows))
    # noisy copies are neither clustered nor counted
    assert noisy.fit_frames == found.fit_frames
    assert [r.neighbours for r in noisy.rows] == pytest.approx([r.neighbours for r in found.rows], abs=1e-9)


def test_abx_is_measured_on_all_layers_alike(data):
    found = swept(data)
    assert set(found.abx) == {0, 1, 2}
    assert len({(e.within_triplets, e.across_triplets) for e in found.abx.values()}) == 1
    assert all(0 <= e.within < 35 for e in found.abx.values())
    assert swept(data, measure_abx=False).abx == {}
    assert found.as_json()["abx_thinned_contexts"] == 0


def test_contexts_of_which_some_speakers_are_compared_are_counted(data, monkeypatch):
    monkeypatch.setattr("upstream.teacher.sweep.thinned", lambda spans, most, seed: spans[most:])  # one of the first
    assert swept(data, context_tokens=1).as_json()["abx_thinned_contexts"] == 1


def test_units_that_give_speakers_away_are_said_to(data):
    """One speaker is a hiss here and the other a tone, and nothing is normalised."""
    manifest, encoder = data[0], Encoder(EncoderConfig(**SMALL, fbank_norm="none")).initialise(0).eval()

    def read(index):
        hiss = np.random.default_rng(index).standard_normal(manifest.lengths[index])
        tone = np.sin(np.arange(len(hiss)) / 5) + hiss / 100
        return (0.1 * (hiss if manifest.speakers[index] == "s" else tone)).astype(np.float32)

    rows = sweep(encoder, manifest, (4,), read=read, fit_frames=800).rows
    assert min(row.speakers for row in rows) > 0.5


def test_abx_that_cannot_be_measured_is_told(data, tmp_path, capsys):
    """Without speakers in the manifest the columns were missing, and nothing said why."""
    manifest, alignments, encoder = data
    unknown = Manifest.of([replace(u, speaker=None) for u in manifest], "a test")
    assert swept((unknown, alignments, encoder)).abx == {}
    assert "no ABX errors: no speakers in the manifest; " in capsys.readouterr().err
    (tmp_path / "u0.ctm").write_text("u 1 0.0 1.2 A\nu 1 1.2 1.2 B\nu 1 2.4 1.2 C\n")
    assert swept((manifest, find_alignments(tmp_path), encoder), clusters=(2,)).abx == {}
    assert "no ABX errors: no two phones lie between the same two others; " in capsys.readouterr().err
    assert swept((unknown, alignments, encoder), measure_abx=False).abx == {}
    swept(data)
    assert "ABX" not in capsys.readouterr().err


def test_a_sweep_repeats_itself(data):
    assert swept(data).as_json() == swept(data).as_json()
    assert swept(data, layers=[2]).rows == tuple(r for r in swept(data).rows if r.layer == 2)


def test_few_recordings_are_all_clustered(data):
    found = swept(data, fit_frames=10 ** 9)
    assert found.fit_frames == found.frames


def test_what_cannot_be_swept_is_refused(data):
    with pytest.raises(UsageError, match="layer=3: this encoder has layers 0 to 2"):
        swept(data, layers=[3])
    with pytest.raises(UsageError, match="clusters="):
        swept(data, clusters=())
    with pytest.raises(InputError, match="none of the alignments"):
        swept(data, alignments={"x": None})
    with pytest.raises(InputError, match="no recordings"):
        sweep(data[2], Manifest.of([], "nothing"), (3,), read=None)
    with pytest.raises(InputError, match="frames for 60000 clusters"):
        swept(data, clusters=(60_000,))


@pytest.mark.parametrize("known", [True, False], ids=["alignments", "stability"])
def test_a_sweep_names_the_utterance_whose_frames_are_not_finite(data, known):
    manifest, alignments, _ = data

    def read(index):
        return np.full(manifest.lengths[index], np.nan if manifest.ids[index] == "u3" else 0.1, np.float32)

    with pytest.raises(InputError, match=r"^u3: features that are not finite"):
        swept(data, alignments=alignments if known else None, read=read)


def test_an_alignment_that_does_not_cover_its_recording_is_refused_before_any_is_encoded(data, tmp_path):
    _, alignments, _ = data
    (tmp_path / "u2.TextGrid").write_text(
        'File type = "ooTextFile"\nitem [1]:\nname = "phones"\nintervals: size = 1\n'
        'intervals [1]:\nxmin = 0\nxmax = 1.5\ntext = "A"\n')
    with pytest.raises(InputError, match=r"u2\.TextGrid: the alignment ends at 1\.50 s, .* goes on to 3\.60 s"):
        swept(data, alignments={**alignments, "u2": tmp_path / "u2.TextGrid"}, read=None)


def test_the_picture_is_one(data, tmp_path):
    for name, options in (("a.png", {}), ("b.png", {"alignments": None})):
        plot_sweep(swept(data, **options), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_encoder_is_left_as_it_was(data):
    encoder = data[2].train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    swept(data, clusters=(3,))
    assert encoder.training
    encoder.eval()
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
