"""Search over a lexicon: equal to flashlight called by torchaudio and to exhaustive search, its weights in nats."""

import gzip
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posteriors import FOLDER, read_slice
from small_arpa import ARPA, write_arpa
from test_batched import log10_of, sure_path
from test_beam import LN10, SYMBOLS, every_text, random_logprobs

from downstream.decode.greedy import greedy
from downstream.decode.lexicon import LexiconDecoder, log10_lm_weight, natural_lm_weight
from downstream.decode.pool import decode_all
from downstream.emissions import Emissions, EmissionsWriter
from downstream.score.rates import score
from downstream.text.lexicon import Lexicon
from downstream.text.vocabulary import Vocabulary
from upstream.errors import FormatError, InputError, UsageError

WORDS = ("A", "B", "AB", "BE")
EVERYTHING = {"beam": 100_000, "beam_threshold": 1e6, "nbest": 100_000}


def best_path_of_every_text(logprobs, characters):
    """Text -> log-probability of its best path. `_` is the blank."""
    best = {}
    for path in itertools.product(range(len(characters)), repeat=len(logprobs)):
        collapsed = "".join(characters[s] for s, _ in itertools.groupby(path)).replace("_", "")
        text = " ".join(collapsed.replace("|", " ").split())
        best[text] = max(best.get(text, -np.inf), sum(logprobs[frame, s] for frame, s in enumerate(path)))
    return best


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 5), seed=st.integers(0, 10_000), lm_weight=st.floats(0, 2), word_score=st.floats(-2, 2),
       log_add=st.booleans())
def test_a_wide_beam_finds_what_exhaustive_search_finds(tmp_path_factory, frames, seed, lm_weight, word_score, log_add):
    logprobs = random_logprobs(frames, seed)
    acoustic = (every_text if log_add else best_path_of_every_text)(logprobs, "_|ABE")
    expected = {}
    for text in acoustic:
        log10, unknown = log10_of(text.split())
        if not unknown:
            expected[text] = acoustic[text] + lm_weight * LN10 * log10 + word_score * len(text.split())
    found = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path_factory.getbasetemp()), None, lm_weight, word_score,
                           log_add=log_add, **EVERYTHING).decode("u", logprobs, 50.0)
    assert {c.text for c in found.nbest} == set(expected)
    for c in found.nbest:
        assert c.score == pytest.approx(expected[c.text], abs=1e-4)
        assert c.acoustic == pytest.approx(acoustic[c.text], abs=1e-4)
        assert (c.lm, c.unknown) == (pytest.approx(LN10 * log10_of(c.text.split())[0], abs=1e-4), 0)
    assert (found.text, found.score) == (found.nbest[0].text, found.nbest[0].score)
    assert found.score == pytest.approx(max(expected.values()), abs=1e-4)


def called_directly(rows, lexicon, lm, options):
    """Words and score of each hypothesis that flashlight gives for rows (T, V), by its own interface."""
    from flashlight.lib.text import decoder as fl
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import create_word_dict, load_words

    spelled = load_words(str(lexicon))
    names = create_word_dict(spelled)
    model = KenLM(str(lm), names)
    tree = fl.Trie(len(SYMBOLS), 1)
    for word, spellings in spelled.items():
        index = names.get_index(word)
        for spelling in spellings:
            tree.insert([SYMBOLS.index(s) for s in spelling], index, model.score(model.start(False), index)[1])
    tree.smear(fl.SmearingMode.MAX)
    chosen = fl.LexiconDecoderOptions(criterion_type=fl.CriterionType.CTC, **options)
    search = fl.LexiconDecoder(chosen, tree, model, 1, 0, names.get_index("<unk>"), [], False)
    rows = np.ascontiguousarray(rows, np.float32)
    return [([names.get_entry(word) for word in result.words if word >= 0], result.score)
            for result in search.decode(rows.ctypes.data, *rows.shape)]


def called_by_torchaudio(rows, lexicon, lm, options):
    """The same by torchaudio's interface."""
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, OSError) as error:
        pytest.skip(f"no torchaudio that can be loaded ({error})")
    import torch
    decoder = ctc_decoder(str(lexicon), list(SYMBOLS), str(lm), blank_token="<pad>", nbest=20, **options)
    found = decoder(torch.from_numpy(np.ascontiguousarray(rows, np.float32))[None])[0]
    return [(hypothesis.words, hypothesis.score) for hypothesis in found]


@pytest.mark.parametrize("called", [called_directly, called_by_torchaudio])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 40), lm_weight=st.floats(0, 2), word_score=st.floats(-2, 2),
       silence=st.sampled_from([0.0, -0.5]), log_add=st.booleans(),
       tokens=st.sampled_from([None, 3]), separator=st.booleans())
def test_it_equals_flashlight_called_directly(called, tmp_path_factory, seed, frames, lm_weight, word_score, silence,
                                              log_add, tokens, separator):
    """Where emissions end in a separator, or with one put at their end."""
    folder = tmp_path_factory.getbasetemp()
    lm = write_arpa(folder, zipped=seed % 2 == 0)
    (folder / "lexicon.txt").write_text("".join(f"{word} {' '.join(word)} |\n" for word in WORDS))
    end = np.array([[-1e4, 0, -1e4, -1e4, -1e4]])
    logprobs = random_logprobs(frames, seed, sharpness=3.0)
    logprobs = np.concatenate([logprobs, end]) if separator else logprobs
    options = {"beam_threshold": 20.0, "word_score": word_score, "log_add": log_add}
    ours = LexiconDecoder(SYMBOLS, 0, lm, None, lm_weight, beam=20, nbest=20, silence_score=silence,
                          tokens_per_frame=tokens, **options).decode("u", logprobs, 50.0)
    theirs = called(logprobs if separator else np.concatenate([logprobs, end]), folder / "lexicon.txt", lm,
                    {"beam_size": 20, "lm_weight": lm_weight * LN10, "sil_score": silence, "unk_score": -math.inf,
                     "beam_size_token": tokens or len(SYMBOLS), **options})
    extra = 0.0 if separator else silence
    assert [c.text for c in ours.nbest] == [" ".join(words) for words, _ in theirs]
    np.testing.assert_allclose([c.score for c in ours.nbest], [score - extra for _, score in theirs], atol=1e-3)


def test_the_language_model_changes_the_winner_by_hand(tmp_path):
    """The last frame hears A a little better than B; the model knows that B follows A.

    `A A` has log .55 and log10 -.25 + (-.25 - .75) + (-.25 - 1) = -2.5, `A B` log .45 and -.25 -.25 -.5 = -1.
    """
    rows = np.full((4, 5), 1e-12)
    rows[0, 2] = rows[1, 0] = rows[2, 1] = 1
    rows[3, 2:4] = 0.55, 0.45
    logprobs, lm = np.log(rows / rows.sum(axis=1, keepdims=True)), write_arpa(tmp_path)
    assert LexiconDecoder(SYMBOLS, 0, lm, lm_weight=0.0).decode("u", logprobs, 50.0).text == "A A"
    found = LexiconDecoder(SYMBOLS, 0, lm, lm_weight=1.0, word_score=0.5).decode("u", logprobs, 50.0)
    assert found.text == "A B"
    assert found.acoustic == pytest.approx(math.log(0.45), abs=1e-6)
    assert found.lm == pytest.approx(-1 * LN10, abs=1e-5)
    assert found.score == pytest.approx(math.log(0.45) - LN10 + 2 * 0.5, abs=1e-5)
    assert found.words == (("A", 0.0, 0.02), ("B", 0.06, 0.08))


def test_published_weights_become_natural_ones():
    """HuBERT with the 4-gram after 10 h: 2.46 of log10 (torchaudio), 1.07 of natural logarithms."""
    assert natural_lm_weight(2.46) == pytest.approx(1.068, abs=5e-4)
    assert log10_lm_weight(natural_lm_weight(2.46)) == pytest.approx(2.46)
    assert natural_lm_weight(1.0) * math.log(10) == pytest.approx(1.0)


@settings(max_examples=30, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_word_times_are_those_of_the_best_path(tmp_path_factory, words, seed):
    rng = np.random.default_rng(seed)
    path = "".join(c * int(rng.integers(1, 4)) + "_" * int(rng.integers(0, 3)) for c in "|".join(words))
    found = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path_factory.getbasetemp()), lm_weight=0.1).decode(
        "u", sure_path(path), 50.0)
    assert found.words == greedy(sure_path(path), SYMBOLS, 0, 50.0).words
    assert [word.word for word in found.words] == words


def test_a_word_is_found_by_any_of_its_spellings_and_has_one_name(tmp_path):
    (tmp_path / "lexicon.txt").write_text("AB\tA B |\nAB\tB E E |\nA\tA |\n")
    lexicon = Lexicon.load(tmp_path / "lexicon.txt", Vocabulary(SYMBOLS))
    decoder = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path), lexicon, lm_weight=0.1)
    found = decoder.decode("u", sure_path("BE_E|A|AB"), 50.0)
    assert (found.text, found.unfinished) == ("AB A AB", False)
    assert found.words[0] == ("AB", 0.0, 0.08)
    assert decoder.decode("u", sure_path("B"), 50.0).text != "B"


def test_a_word_that_the_model_does_not_know_is_scored_and_counted_as_unknown(tmp_path):
    found = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path), ("EBB", "A"), lm_weight=0.01, nbest=3).decode(
        "u", sure_path("EB_B|A"), 50.0)
    assert (found.text, found.nbest[0].unknown) == ("EBB A", 1)
    assert found.lm == pytest.approx(LN10 * log10_of(["EBB", "A"])[0], abs=1e-5)


def test_a_lexicon_without_a_language_model():
    found = LexiconDecoder(SYMBOLS, 0, lexicon=("BE", "AAA")).decode("u", sure_path("BA|BE"), 50.0)
    assert (found.text, found.lm) == ("BE BE", 0.0)
    assert found.score == found.acoustic


@pytest.mark.parametrize("blank", [0, 3, 5])
def test_the_blank_may_be_any_column_and_specials_cost_nothing(tmp_path, blank):
    symbols = ["|", "A", "B", "E", "<unk>"]
    symbols.insert(blank, "<pad>")
    names = {"|": 1, "A": 2, "B": 3, "E": 4, "<pad>": 0}
    plain = random_logprobs(8, 3)
    rows = np.stack([plain[:, names[s]] if s in names else np.full(8, -3.0) for s in symbols], axis=1)
    lm = write_arpa(tmp_path)
    assert (LexiconDecoder(tuple(symbols), blank, lm).decode("u", rows, 50.0)
            == LexiconDecoder(SYMBOLS, 0, lm).decode("u", plain, 50.0))


def test_of_many_words_with_one_spelling_the_likeliest_are_kept(tmp_path):
    """flashlight holds six. The model knows A and B."""
    (tmp_path / "lexicon.txt").write_text("".join(f"{word}\tE E |\n" for word in [*"CDFGHI", "B", "A"]))
    lexicon = Lexicon.load(tmp_path / "lexicon.txt", Vocabulary(SYMBOLS))
    found = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path), lexicon, nbest=9).decode("u", sure_path("E_E"), 50.0)
    assert {"A", "B"} < {c.text for c in found.nbest}
    assert found.text == "A"


def test_words_beyond_six_of_one_spelling_are_told(tmp_path, capsys):
    lines = [f"{word}\tE E |\n" for word in [*"CDFGHI", "B", "A"]]
    decode = {}
    for many in (6, 8):
        (tmp_path / "lexicon.txt").write_text("".join(lines[-many:]))
        decode[many] = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path), Lexicon.load(tmp_path / "lexicon.txt"))
    decode[6].prepare()
    assert capsys.readouterr().err == ""
    decode[8].prepare()
    decode[8].decode("u", sure_path("E_E"), 50.0)
    assert capsys.readouterr().err == (
        "warning: 2 words of the lexicon, 'H' for instance, have a spelling in common with six likelier ones and are "
        "not found by it: flashlight holds six words of one spelling\n")


def test_where_no_word_was_finished_the_text_is_greedy_and_flagged(tmp_path):
    decoder = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path), ("BE",), beam=1, nbest=4)
    found = decoder.decode("u", sure_path("B"), 50.0)
    plain = greedy(sure_path("B"), SYMBOLS, 0, 50.0)
    assert (found.text, found.unfinished, found.words) == ("B", True, plain.words)
    assert (found.score, [c.text for c in found.nbest]) == (plain.score, ["B"])
    finished = decoder.decode("u", sure_path("BE"), 50.0)
    assert (finished.text, finished.unfinished) == ("BE", False)


def test_where_the_last_word_is_cut_off_it_is_dropped_and_flagged(tmp_path):
    found = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path), ("BE", "A"), beam=1).decode(
        "u", sure_path("A|B"), 50.0)
    assert (found.text, found.unfinished) == ("A", True)
    assert found.lm == pytest.approx(LN10 * log10_of(["A"])[0], abs=1e-5)
    assert found.score == pytest.approx(found.acoustic + 0.5 * found.lm, abs=1e-6)
    silent = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path), ("BE", "A"), beam=1, silence_score=-2.0).decode(
        "u", sure_path("A|B"), 50.0)
    assert silent.score == pytest.approx(found.score - 2.0, abs=1e-5)  # the one separator that was there
    assert found.acoustic == pytest.approx(3 * math.log(1 / 1.004), abs=1e-3)


def test_no_frames_and_silence_are_empty_texts(tmp_path):
    decoder = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path))
    silence = np.tile(np.log([0.96, 0.01, 0.01, 0.01, 0.01]), (20, 1))
    for rows in (np.zeros((0, 5), np.float32), silence):
        found = decoder.decode("u", rows, 50.0)
        assert (found.text, found.words, found.unfinished) == ("", (), False)


def test_impossible_emissions_end_nothing(tmp_path):
    rows = np.full((3, 5), -np.inf)
    rows[:, 4] = 0.0
    found = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path), ("A",)).decode("u", rows, 50.0)
    assert found.text in ("", "A", "E")
    assert math.isfinite(found.score)


def test_one_lexicon_serves_decoders_of_different_weights(tmp_path):
    lm, logprobs = write_arpa(tmp_path), random_logprobs(20, 5)
    weak, strong = (LexiconDecoder(SYMBOLS, 0, lm, None, weight) for weight in (0.1, 2.0))
    first = weak.decode("u", logprobs, 50.0)
    strong.decode("u", logprobs, 50.0)
    assert weak.decode("u", logprobs, 50.0) == first


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_give_what_one_gives(tmp_path, start):
    utterances, references, symbols = read_slice()
    with EmissionsWriter(tmp_path / "emissions", symbols, 0, 50.0) as writer:
        for id, rows in utterances.items():
            writer.add(id, rows)
    emissions = Emissions.load(tmp_path / "emissions")
    lexicon = Lexicon.spelled(sorted(set(" ".join(references.values()).split())),
                              Vocabulary(tuple("|" if s == " " else s for s in symbols)))
    decoder = LexiconDecoder(symbols, 0, FOLDER / "words.arpa.gz", lexicon, beam=10, nbest=2)
    alone = decode_all(emissions, decoder, workers=1)
    assert decode_all(emissions, decoder, workers=2, start=start) == alone
    assert score(references, {h.id: h.text for h in alone}).errors < 20  # greedy: 40


@pytest.mark.parametrize("wrong", [{"beam": 0}, {"nbest": 0}, {"tokens_per_frame": 0}, {"lm_weight": -1.0},
                                   {"lm_weight": math.nan}, {"word_score": math.inf}, {"beam_threshold": 0.0},
                                   {"silence_score": -math.inf}, {"lexicon": None}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        LexiconDecoder(SYMBOLS, 0, **{"lexicon": ("A",), **wrong})


@pytest.mark.parametrize(("lexicon", "words"), [
    (("A", "xyz", "b"), r"2 of 3 words of the lexicon cannot be spelled.*'xyz', 'b'"),
    (("A B",), "'A B'"), (("",), "''"), ((), "without words"),
    (Lexicon({"A": (("A",),)}), "'|' at the end: 'A'"),
    (Lexicon({"A": (("A", "|"), ("<pad>", "|"))}), "'A'"),
])
def test_words_that_cannot_be_spelled_are_named(lexicon, words):
    with pytest.raises(InputError, match=words):
        LexiconDecoder(SYMBOLS, 0, lexicon=lexicon).prepare()


@pytest.mark.parametrize("content", [b"", b"words\n", ARPA[:60].encode(), ARPA[:-30].encode(),
                                     gzip.compress(ARPA.encode())[:80], b"\xbe\xff" * 300])
@pytest.mark.parametrize("lexicon", [None, ("A",)])
def test_broken_language_models_are_refused(tmp_path, content, lexicon, capfd):
    path = tmp_path / "lm.arpa"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"lm\.arpa"):
        LexiconDecoder(SYMBOLS, 0, path, lexicon).prepare()
    assert capfd.readouterr().err == ""


def test_a_language_model_without_unknown_words_is_enough(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA.replace("-2\t<unk>\n", "").replace("1=7", "1=6"))
    found = LexiconDecoder(SYMBOLS, 0, path).decode("u", sure_path("A|B"), 50.0)
    assert found.text == "A B"
    odd = LexiconDecoder(SYMBOLS, 0, path, ("EBB",), lm_weight=0.01).decode("u", sure_path("EB_B"), 50.0)
    assert odd.lm == pytest.approx(LN10 * log10_of(["EBB"], unknown=-100.0)[0], abs=1e-3)


def test_what_does_not_fit_is_said(tmp_path):
    lm = write_arpa(tmp_path)
    with pytest.raises(InputError, match="lower case; build"):
        LexiconDecoder(("<pad>", "|", "a", "b", "e"), 0, lm).prepare()
    for lexicon in (None, ("A",)):
        with pytest.raises(UsageError, match="no such"):
            LexiconDecoder(SYMBOLS, 0, tmp_path / "none.arpa", lexicon).prepare()
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\x00\x01")
    with pytest.raises(UsageError, match="does not tell its words"):
        LexiconDecoder(SYMBOLS, 0, tmp_path / "lm.bin").prepare()
    with pytest.raises(FormatError, match=r"lm\.bin: KenLM cannot read it"):
        LexiconDecoder(SYMBOLS, 0, tmp_path / "lm.bin", ("A",)).prepare()
    with pytest.raises(InputError, match="NaN"):
        LexiconDecoder(SYMBOLS, 0, lm).decode("u", np.full((2, 5), np.nan), 50.0)
    with pytest.raises(InputError, match="do not fit 5 symbols"):
        LexiconDecoder(SYMBOLS, 0, lm).decode("u", np.zeros((2, 4)), 50.0)
