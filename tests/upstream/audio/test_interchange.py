"""Corpora in the layouts of other programs: what is read, what goes out and comes back, and what is refused."""

import codecs
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from upstream.audio import Manifest, Utterance, read
from upstream.audio.containers import open_audio
from upstream.audio.corpora import probing
from upstream.audio.corpora.common_voice import import_common_voice
from upstream.audio.corpora.fairseq import export_fairseq, import_fairseq, letters_of, letters_without_a_place
from upstream.audio.corpora.kaldi import export_kaldi, import_kaldi
from upstream.audio.corpora.libri_light import import_libri_light
from upstream.audio.corpora.nemo import export_nemo, import_nemo
from upstream.audio.cutting import cut_audio, refuse_parts
from upstream.errors import InputError, UsageError


def audio(path, samples=2000, rate=16_000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(samples).integers(-9000, 9000, (samples, channels)).astype(np.int16)
    soundfile.write(path, wave, rate)
    return path


def content(samples, form="FLAC"):
    memory = io.BytesIO()
    wave = np.random.default_rng(samples).integers(-9000, 9000, samples).astype(np.int16)
    soundfile.write(memory, wave, 16_000, format=form)
    return memory.getvalue()


@pytest.fixture
def whole(tmp_path):
    """Four whole files of two speakers, one without a text."""
    texts = ["A BAD DAY", None, "IT'S", "TWO WORDS"]
    return Manifest.of([Utterance(f"s{i % 2}-{i}", audio(tmp_path / "audio" / f"s{i % 2}" / f"s{i % 2}-{i}.wav",
                                                          1000 + i), 0, 1000 + i, 16_000, 1, f"s{i % 2}", text)
                        for i, text in enumerate(texts)], "a test")


@pytest.fixture
def parts(tmp_path):
    """Five parts of two files at 44.1 kHz, at places that no round number of seconds says."""
    files = [audio(tmp_path / "long" / f"{i}.flac", 44_100, 44_100, 2) for i in range(2)]
    return Manifest.of([Utterance(f"u{i}", files[i % 2], 777 * i, 5001 + i, 44_100, 2, "ann", f"TEXT {i}")
                        for i in range(5)], "a test")


def same(found, expected, **changes):
    assert list(found) == [replace(u, **changes) for u in expected]


class TestFairseq:
    def test_a_list_goes_out_and_comes_back(self, whole, tmp_path):
        files = export_fairseq(whole, tmp_path / "out", "valid")
        assert [p.name for p in files] == ["dict.ltr.txt", "valid.ids", "valid.wrd", "valid.ltr", "valid.tsv"]
        same(import_fairseq(tmp_path / "out" / "valid.tsv"), whole, speaker=None)

    def test_the_files_are_those_that_fairseq_reads(self, whole, tmp_path):
        export_fairseq(whole, tmp_path)
        lines = (tmp_path / "train.tsv").read_text().splitlines()
        assert lines == [str(tmp_path / "audio"), "s0/s0-0.wav\t1000", "s1/s1-1.wav\t1001", "s0/s0-2.wav\t1002",
                         "s1/s1-3.wav\t1003"]
        assert (tmp_path / "train.ltr").read_text().splitlines() == ["A | B A D | D A Y |", "", "I T ' S |",
                                                                     "T W O | W O R D S |"]

    def test_the_dictionary_has_the_most_frequent_letters_first(self, whole, tmp_path):
        """It was not written, and fairseq's fine-tuning ends without one."""
        export_fairseq(whole, tmp_path)
        assert (tmp_path / "dict.ltr.txt").read_text() == (
            "| 6\nA 3\nD 3\nO 2\nS 2\nT 2\nW 2\n' 1\nB 1\nI 1\nR 1\nY 1\n")

    def test_a_dictionary_that_is_there_stays_and_what_it_lacks_is_known(self, whole, tmp_path):
        """A model may have been trained on its order, or another program may have written it."""
        assert letters_without_a_place(whole, tmp_path) == []
        (tmp_path / "dict.ltr.txt").write_text("| 94802\nD 51860\nA 38431\n")
        assert letters_without_a_place(whole.select([0]), tmp_path) == ["B", "Y"]
        assert "dict.ltr.txt" not in [path.name for path in export_fairseq(whole, tmp_path)]
        assert (tmp_path / "dict.ltr.txt").read_text() == "| 94802\nD 51860\nA 38431\n"

    def test_no_transcripts_make_no_dictionary(self, whole, tmp_path):
        export_fairseq(whole.select([1]), tmp_path)
        assert not (tmp_path / "dict.ltr.txt").exists()

    def test_letters_by_hand(self):
        assert letters_of("A BAD") == "A | B A D |"
        assert letters_of("") == ""

    def test_letters_alone_give_the_words(self, whole, tmp_path):
        export_fairseq(whole, tmp_path)
        (tmp_path / "train.wrd").unlink()
        assert import_fairseq(tmp_path / "train.tsv").texts == whole.texts

    def test_without_ids_the_stems_are_or_the_paths_where_two_are_alike(self, tmp_path):
        for name in ("a/x.wav", "b/y.wav", "b/x.wav"):
            audio(tmp_path / name, 500)
        (tmp_path / "t.tsv").write_text(f"{tmp_path}\na/x.wav\t500\nb/y.wav\t500\n")
        assert import_fairseq(tmp_path / "t.tsv").ids == ["x", "y"]
        (tmp_path / "t.tsv").write_text(f"{tmp_path}\na/x.wav\t500\nb/x.wav\t500\n")
        assert import_fairseq(tmp_path / "t.tsv").ids == ["a-x", "b-x"]

    def test_the_audio_may_have_moved(self, whole, tmp_path):
        export_fairseq(whole, tmp_path)
        (tmp_path / "audio").rename(tmp_path / "moved")
        with pytest.raises(InputError, match="there is no such file"):
            import_fairseq(tmp_path / "train.tsv")
        assert import_fairseq(tmp_path / "train.tsv", tmp_path / "moved").ids == whole.ids

    def test_files_stored_in_a_zip_are_read_in_place(self, tmp_path):
        import zipfile
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as file:
            file.writestr("x.flac", content(700))
        size = len(content(700))
        offset = (tmp_path / "a.zip").read_bytes().find(content(700))
        (tmp_path / "t.tsv").write_text(f"{tmp_path}\na.zip:{offset}:{size}\t700\n")
        [found] = import_fairseq(tmp_path / "t.tsv")
        assert len(read(found)) == 700

    @pytest.mark.parametrize(("name", "lines", "said"), [
        ("train.tsv", ["{root}", "s0/s0-0.wav\t" + "9" * 5000], r"train\.tsv, line 2: .* is not `PATH<tab>SAMPLES`"),
        ("train.tsv", ["{root}", "s0/s0-0.wav 1000"], r"train\.tsv, line 2: .* is not `PATH<tab>SAMPLES`"),
        ("train.tsv", ["s0/s0-0.wav\t1000"], r"line 1: expected the folder"),
        ("train.tsv", [], r"line 1: expected the folder"),
        ("train.tsv", ["{root}"], r"train\.tsv: no utterances"),
        ("train.tsv", ["{root}", "s0/s0-0.wav\t1000", "s1/s1-1.wav\t999", "a\t1", "b\t1"],
         r"s1-1\.wav: 1001 samples, the corpus says 999 \(2 more cannot be used\).*--skip-bad"),
        ("train.wrd", ["A", "B", "C"], r"train\.wrd: 3 lines for the 4 files of train\.tsv: line 4 is missing"),
        ("train.ids", list("abcde"), r"train\.ids: 5 lines for the 4 files .*: line 5 is one too many"),
        ("train.ids", list("abca"), r"a second utterance with the id a"),
    ])
    def test_a_wrong_line_is_named(self, whole, tmp_path, name, lines, said):
        export_fairseq(whole, tmp_path)
        (tmp_path / name).write_text("".join(f"{line}\n".format(root=tmp_path / "audio") for line in lines))
        if name == "train.tsv":
            for other in ("wrd", "ltr", "ids"):
                (tmp_path / f"train.{other}").unlink()
        with pytest.raises(InputError, match=said):
            import_fairseq(tmp_path / "train.tsv")

    def test_parts_must_be_cut_first_and_then_sound_the_same(self, parts, tmp_path):
        with pytest.raises(InputError, match=r"u0: is 5001 of the 44100 samples .*--cut-audio"):
            refuse_parts(parts)
        cut = cut_audio(parts, tmp_path / "cut")
        refuse_parts(cut)
        assert (cut.ids, cut.texts, cut.speakers) == (parts.ids, parts.texts, parts.speakers)
        for before, after in zip(parts, cut):
            np.testing.assert_allclose(read(after), read(before), atol=0.6 / 32_768)
        export_fairseq(cut, tmp_path / "out")
        same(import_fairseq(tmp_path / "out" / "train.tsv"), cut, speaker=None)

    def test_cutting_leaves_nothing_where_a_file_cannot_be_read(self, parts, tmp_path):
        parts[1].audio.unlink()
        with pytest.raises(InputError, match="u1: "):
            cut_audio(parts, tmp_path / "out" / "cut")
        assert list((tmp_path / "out").iterdir()) == []
        (tmp_path / "out" / "cut").mkdir()
        (tmp_path / "out" / "cut" / "mine.flac").touch()
        with pytest.raises(UsageError, match="is there already"):
            cut_audio(parts, tmp_path / "out" / "cut")


class TestKaldi:
    def test_whole_files_go_out_and_come_back(self, whole, tmp_path):
        export_kaldi(whole, tmp_path / "data")
        assert sorted(p.name for p in (tmp_path / "data").glob("[!.]*")) == ["spk2utt", "text", "utt2spk", "wav.scp"]
        same(import_kaldi(tmp_path / "data"), sorted(whole, key=lambda u: u.id))
        assert (tmp_path / "data" / "spk2utt").read_text() == "s0 s0-0 s0-2\ns1 s1-1 s1-3\n"

    def test_a_recording_of_many_segments_is_opened_once(self, tmp_path, monkeypatch):
        """Found in review: walking through an hour of MP3 for each of its segments took longer than decoding it."""
        audio(tmp_path / "a.wav", 16_000)
        (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
        (tmp_path / "segments").write_text("".join(f"x{i} a {i / 20} {(i + 1) / 20}\n" for i in range(20)))
        opened = []
        monkeypatch.setattr(probing, "open_audio", lambda *place: opened.append(place) or open_audio(*place))
        assert [u.start for u in import_kaldi(tmp_path)] == [800 * i for i in range(20)]
        assert len(opened) == 1

    def test_parts_go_out_as_segments_and_come_back_to_the_sample(self, parts, tmp_path):
        export_kaldi(parts, tmp_path / "data")
        same(import_kaldi(tmp_path / "data"), parts)
        assert (tmp_path / "data" / "segments").read_text().splitlines()[1] == "u1 1 0.017619 0.131043"

    def test_an_export_over_an_older_one_leaves_nothing_of_it(self, parts, whole, tmp_path):
        export_kaldi(parts, tmp_path / "data")
        export_kaldi(whole, tmp_path / "data")
        same(import_kaldi(tmp_path / "data"), sorted(whole, key=lambda u: u.id))

    def test_an_end_of_minus_one_is_that_of_the_file_and_a_little_beyond_it_too(self, tmp_path):
        audio(tmp_path / "a.wav", 16_000)
        (tmp_path / "wav.scp").write_text("a a.wav\n")
        (tmp_path / "segments").write_text("x a 0.25 -1\ny a 0.5 1.015\n")
        found = import_kaldi(tmp_path, tmp_path)
        assert [(u.start, u.samples) for u in found] == [(4000, 12_000), (8000, 8000)]
        assert found.texts == found.speakers == [None, None]

    @pytest.mark.parametrize(("name", "text", "said"), [
        ("wav.scp", "a flac -dc a.flac |\n", r"wav\.scp: a is the command `flac -dc a\.flac \|`, which is not run"),
        ("wav.scp", "a x.wav\na y.wav\n", r"wav\.scp, line 2: a a second time"),
        ("segments", "x b 0 1\n", "x is a part of b, which wav.scp does not name"),
        ("segments", "x a 0 1 0\n", "x has 4 columns"),
        ("segments", "x a 0 end\n", "x has the times 0 and end"),
        ("segments", "x a 0 1.03\n", r"a\.wav: ends after 1\.000 s, before the 1\.030 s"),
        ("segments", "x a 0.5 0.5\n", "is no part of a recording"),
        ("text", "b WORDS\n", r"text: b is no utterance"),
        ("utt2spk", "", None),
        ("text", "x y z", "x is no utterance"),
    ])
    def test_a_wrong_line_is_named(self, tmp_path, name, text, said):
        audio(tmp_path / "a.wav", 16_000)
        (tmp_path / "wav.scp").write_text("a a.wav\n")
        (tmp_path / name).write_text(text)
        if said is None:
            assert import_kaldi(tmp_path, tmp_path).ids == ["a"]
            return
        with pytest.raises(InputError, match=said):
            import_kaldi(tmp_path, tmp_path)

    def test_an_utterance_that_text_lacks_is_bad_and_can_be_left_out(self, whole, tmp_path):
        export_kaldi(whole, tmp_path)
        (tmp_path / "text").write_text("s0-0 A\ns1-1 B\ns1-3 C\n")
        with pytest.raises(InputError, match=r"s0-2 has no line in .*text"):
            import_kaldi(tmp_path)
        skipped = []
        assert import_kaldi(tmp_path, skip=skipped.append).ids == ["s0-0", "s1-1", "s1-3"]
        assert [p.id for p in skipped] == ["s0-2"]


class TestNemo:
    def test_whole_files_and_parts_go_out_and_come_back(self, whole, parts, tmp_path):
        mono = Manifest.of([replace(u, audio=audio(tmp_path / "mono" / u.audio.name, 44_100, 44_100), channels=1)
                            for u in parts], "a test")
        for name, manifest in (("whole", whole), ("parts", mono)):
            path = export_nemo(manifest, tmp_path / f"{name}.jsonl")
            same(import_nemo(path), manifest)

    def test_files_of_several_channels_are_refused(self, parts, tmp_path):
        with pytest.raises(InputError, match=r"u0: .*0\.flac has 2 channels, whose mean is read here"):
            export_nemo(parts, tmp_path / "m.jsonl")
        assert not (tmp_path / "m.jsonl").exists()

    def test_a_manifest_of_nemos_own_has_relative_paths_and_no_ids(self, tmp_path):
        audio(tmp_path / "x" / "a.wav", 32_000)
        audio(tmp_path / "x" / "b.wav", 16_000)
        rows = [{"audio_filepath": "x/a.wav", "duration": 0.5, "text": "one", "offset": 0},
                {"audio_filepath": "x/a.wav", "duration": 1.25, "text": "two", "offset": 0.75, "speaker": 7},
                {"audio_filepath": "x/b.wav", "duration": 1.004, "text": ""}]
        (tmp_path / "m.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
        found = import_nemo(tmp_path / "m.json")
        assert found.ids == ["a-0000000", "a-0000750", "b"]
        assert [(u.start, u.samples) for u in found] == [(0, 8000), (12_000, 20_000), (0, 16_000)]
        assert (found.texts, found.speakers) == (["one", "two", None], [None, "7", None])

    def test_ids_may_be_numbers(self, tmp_path):
        rows = []
        for number in (0, 20230615123456):
            audio(tmp_path / f"{number}.wav")
            rows.append(json.dumps({"audio_filepath": f"{number}.wav", "id": number}))
        (tmp_path / "m.json").write_text("\n".join(rows))
        assert import_nemo(tmp_path / "m.json").ids == ["0", "20230615123456"]

    @pytest.mark.parametrize(("line", "said"), [
        ('{"audio_filepath": "a.wav", "id": [1]}', r"line 2: id is \[1\]; expected a string or a number"),
        ("{", "line 2: not JSON"), ('{"text": "x"}', "line 2: no audio_filepath"), ("[1]", "line 2: no audio_filepath"),
        ('{"audio_filepath": "a.wav", "duration": "1"}', "line 2: duration is '1'"),
        ('{"audio_filepath": "a.wav", "channel_selector": 1}', "channel_selector is not supported"),
        ('{"audio_filepath": "a.wav", "duration": 9}', "ends after 0.125 s, before the 9.000 s"),
        ('{"audio_filepath": "b.wav"}', "b.wav: there is no such file")])
    def test_a_wrong_line_is_named(self, tmp_path, line, said):
        audio(tmp_path / "a.wav")
        (tmp_path / "m.jsonl").write_text(f'{{"audio_filepath": "a.wav", "id": "x"}}\n{line}\n')
        with pytest.raises(InputError, match=said):
            import_nemo(tmp_path / "m.jsonl")


class TestCommonVoice:
    def table(self, tmp_path, *rows):
        head = "client_id\tpath\tsentence\tup_votes"
        (tmp_path / "train.tsv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
        return tmp_path / "train.tsv"

    @pytest.mark.parametrize("marked", [False, True])
    def test_clips_speakers_and_sentences_are_read(self, tmp_path, marked):
        audio(tmp_path / "clips" / "cv_1.mp3", 24_000)
        audio(tmp_path / "clips" / "cv_2.mp3", 24_000)
        audio(tmp_path / "clips" / "unlisted.mp3", 24_000)
        table = self.table(tmp_path, 'abc\tcv_2.mp3\t"Ja,  gut\t3', "abd\tcv_1\t\t0")
        table.write_bytes(codecs.BOM_UTF8 * marked + table.read_bytes())
        found = import_common_voice(table)
        assert found.ids == ["cv_2", "cv_1"]
        assert found.speakers == ["abc", "abd"]
        assert found.texts == ['"Ja, gut', None]

    @pytest.mark.parametrize(("row", "said"), [("abc\tx.mp3\tText", "line 2: expected 4 columns"),
                                               ("abc\t\tText\t1", "line 2: expected 4 columns and a path"),
                                               ("abc\tx.mp3\tText\t1", r"x\.mp3: there is no such file")])
    def test_a_wrong_line_is_named(self, tmp_path, row, said):
        with pytest.raises(InputError, match=said):
            import_common_voice(self.table(tmp_path, row))

    def test_another_table_is_refused(self, tmp_path):
        (tmp_path / "t.tsv").write_text("path\ttext\nx\ty\n")
        with pytest.raises(InputError, match="no column client_id, sentence"):
            import_common_voice(tmp_path / "t.tsv")


class TestLibriLight:
    @pytest.fixture
    def layout(self, tmp_path):
        for part in (*(f"1h/{i}" for i in range(6)), "9h"):
            for n, kind in enumerate(("clean", "other")):
                speaker = 10 + 2 * (9 if part == "9h" else int(part[-1])) + n
                folder = tmp_path / part / kind / str(speaker) / "7"
                audio(folder / f"{speaker}-7-0000.flac", 500)
                (folder / f"{speaker}-7.trans.txt").write_text(f"{speaker}-7-0000 TEXT\n")
        return tmp_path

    def test_each_amount_lies_within_the_next(self, layout):
        ten, hour, all_ = (import_libri_light(layout, part).ids for part in ("10min", "1h", "10h"))
        assert (len(ten), len(hour), len(all_)) == (2, 12, 14)
        assert set(ten) < set(hour) < set(all_)
        assert import_libri_light(layout, "10min", fold=5).ids == ["20-7-0000", "21-7-0000"]

    def test_a_layout_that_is_not_there_is_wrong_use(self, layout, tmp_path):
        with pytest.raises(UsageError, match="1h/0: no such folder"):
            import_libri_light(layout / "9h", "10min")
        with pytest.raises(UsageError, match="only 10min has folds"):
            import_libri_light(layout, "1h", fold=2)


class TestSpoiltLists:
    """Found by changing bytes of sound lists at random: none may end in anything but one line."""

    @pytest.mark.parametrize("times", ["inf 1", "0 inf", "nan 1", "0 nan", "0 1e400", "-1 1"])
    def test_times_that_are_no_numbers_are_faults_of_their_utterance(self, tmp_path, times):
        audio(tmp_path / "a.wav", 16_000)
        (tmp_path / "wav.scp").write_text("a a.wav\n")
        (tmp_path / "segments").write_text(f"x a {times}\n")
        with pytest.raises(InputError, match=r"a\.wav: (from|ends)"):
            import_kaldi(tmp_path, tmp_path)

    @pytest.mark.parametrize("row", [
        {"audio_filepath": "a.wav", "duration": float("nan")}, {"audio_filepath": "a.wav", "offset": 10**400},
        {"audio_filepath": "\ud800.wav"}, {"audio_filepath": "a.wav\0.flac"},
        {"audio_filepath": "a.wav", "id": "\ud800"}, {"audio_filepath": "a.wav", "text": "\ud800"},
        {"audio_filepath": "a.wav", "speaker": "\ud800"}, {"audio_filepath": "a.wav", "id": ""}])
    def test_values_that_cannot_be_are_one_line(self, tmp_path, row):
        audio(tmp_path / "a.wav", 16_000)
        (tmp_path / "m.jsonl").write_text(json.dumps(row))
        if row.get("id") == "":
            assert import_nemo(tmp_path / "m.jsonl").ids == ["a"]
            return
        with pytest.raises(InputError) as caught:
            import_nemo(tmp_path / "m.jsonl")
        assert "\n" not in str(caught.value)

    def test_json_without_end_is_one_line(self, tmp_path):
        (tmp_path / "m.jsonl").write_text("[" * 100_000)
        with pytest.raises(InputError, match="line 1: not JSON"):
            import_nemo(tmp_path / "m.jsonl")
