"""One flag chooses the decoder; settings that it does not have are refused, hotwords and lexicons are read."""

import unicodedata

import numpy as np
import pytest
import torch
from small_arpa import write_arpa
from test_batched import sure_path

from downstream.decode.batched import BatchedDecoder
from downstream.decode.beam import BeamDecoder
from downstream.decode.choice import Choice, Name, load_lexicon, name_of, parse_hotwords
from downstream.decode.lexicon import LexiconDecoder
from downstream.decode.tuned import choice_of
from downstream.emissions import Emissions, EmissionsWriter
from downstream.text.vocabulary import Vocabulary
from upstream.errors import FormatError, InputError, UsageError

SYMBOLS = ("<pad>", "|", "A", "B", "E")


@pytest.mark.parametrize(("given", "name"), [
    ({}, "greedy"), ({"lm": True}, "batched"), ({"beam": 5}, "batched"), ({"hotwords": (("A", None),)}, "batched"),
    ({"name": Name.greedy}, "greedy"), ({"name": Name.lexicon, "lm": True}, "lexicon"),
    ({"name": Name.beam, "lm": True}, "beam"), ({"name": Name.beam}, "beam")])
def test_the_default_is_greedy_or_our_own_search_and_the_name_goes_first(tmp_path, given, name):
    if "lm" in given:
        given = {**given, "lm": write_arpa(tmp_path)}
    decoder = Choice(**given).make(SYMBOLS, 0)
    assert name_of(decoder).value == name == Choice(**given).chosen.value
    decoder.prepare()
    assert decoder.decode("u", sure_path("A|B"), 50.0).text == "A B"


@pytest.mark.parametrize("kind", [BeamDecoder, LexiconDecoder, BatchedDecoder])
def test_settings_arrive_and_what_is_left_out_is_the_decoders_own(tmp_path, kind):
    name = name_of(kind(SYMBOLS, 0, write_arpa(tmp_path)))
    lm = write_arpa(tmp_path)
    assert Choice(name, lm).make(SYMBOLS, 0) == kind(SYMBOLS, 0, lm)
    choice = Choice(name, lm, lm_weight=0.0, word_score=0.0, beam=7, tokens_per_frame=3, nbest=4)
    assert choice.make(SYMBOLS, 0) == kind(SYMBOLS, 0, lm, lm_weight=0.0, word_score=0.0, beam=7, tokens_per_frame=3,
                                           nbest=4)


def test_a_lexicon_is_read_with_its_spellings_or_as_words(tmp_path):
    path, spaced = tmp_path / "lexicon.txt", ("<pad>", " ", "A", "B", "E")
    path.write_text("AB\tA B |\nAB\tB E |\n")
    decoder = Choice(Name.lexicon, lexicon=path).make(spaced, 0)
    assert decoder.decode("u", sure_path("BE|AB"), 50.0).text == "AB AB"
    with pytest.raises(UsageError, match=r"other spellings than by characters; .* take the lexicon decoder \(--d"):
        Choice(Name.batched, lexicon=path).make(SYMBOLS, 0)
    path.write_text("AB\nBE\n")
    for name in (Name.lexicon, Name.batched):
        decoder = Choice(name, lexicon=path).make(spaced, 0)
        assert decoder.decode("u", sure_path("BE|AB"), 50.0).text == "BE AB"
    assert load_lexicon(path, spaced, 0).words == ["AB", "BE"]
    path.write_text("AB\nCC\n")
    with pytest.raises(InputError, match=r"lexicon\.txt, line 2: 1 of 2 words"):
        Choice(Name.lexicon, lexicon=path).make(SYMBOLS, 0)


@pytest.mark.parametrize(("given", "says"), [
    ({"nbest": 2}, r"^nbest has no effect on the greedy decoder: take beam or lexicon or batched \(--decoder\)"),
    ({"name": Name.greedy, "lm": "x.arpa"}, "^lm has no effect on the greedy"),
    ({"tokens_per_frame": 3}, r"^tokens_per_frame \(--tokens\) has no effect on the greedy"),
    ({"lexicon": "words.txt"}, r"^lexicon has no effect on the greedy decoder: take lexicon or batched \(--decoder\)"),
    ({"name": Name.beam, "lexicon": "words.txt"}, "^lexicon has no effect on the beam"),
    ({"name": Name.lexicon, "hotwords": (("A", 1.0),)}, "^hotwords has no effect on the lexicon"),
    ({"name": Name.lexicon, "device": "cuda"}, "^device has no effect on the lexicon"),
    ({"name": Name.lexicon}, "a lexicon search needs words"),
    ({"name": Name.batched, "device": "nowhere"}, "device 'nowhere' cannot be used"),
    ({"name": Name.beam, "hotwords": (("A", 1.0), ("B", 2.0))}, "bonuses of 1, 2: pyctcdecode has one for all"),
    ({"name": Name.beam, "hotwords": (("A", 1.0), ("B", None))}, "bonuses of 1, 10"),
    ({"hotwords": (("XY", None),)}, "hotword 'XY' cannot be spelled"),
    ({"name": Name.batched, "hotwords": (("a b", None),)}, "hotword 'a b' cannot be spelled"),
])
def test_what_has_no_effect_or_cannot_be_is_refused(given, says):
    with pytest.raises(UsageError, match=says):
        Choice(**given).make(SYMBOLS, 0)


def test_hotwords_have_bonuses(tmp_path):
    assert parse_hotwords("A=2.5, B ,AB=-1") == (("A", 2.5), ("B", None), ("AB", -1.0))
    (tmp_path / "words.txt").write_text("A=2.5\n\nB\n")
    assert parse_hotwords(str(tmp_path / "words.txt")) == (("A", 2.5), ("B", None))
    given = (("A", 2.5), ("B", None))
    assert Choice(Name.batched, hotwords=given).make(SYMBOLS, 0).hotwords == (("A", 2.5), ("B", 5.0))
    beam = Choice(Name.beam, hotwords=(("A", 2.5), ("B", 2.5))).make(SYMBOLS, 0)
    assert (beam.hotwords, beam.hotword_weight) == (("A", "B"), 2.5)


@pytest.mark.parametrize("given", ["", ",", "A=x", "A=nan", "A=inf", "=3", "A,A", "A=1,A=2", "A="])
def test_hotwords_that_are_none_are_refused(given):
    with pytest.raises(UsageError, match="hotword"):
        parse_hotwords(given)


def test_a_file_of_hotwords_is_text(tmp_path):
    (tmp_path / "words.bin").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match=r"words\.bin: not UTF-8"):
        parse_hotwords(str(tmp_path / "words.bin"))


def test_many_hotwords_are_no_file_name():
    words = [f"A{'B' * length}" for length in range(300)]
    assert len(parse_hotwords(",".join(words))) == 300


def test_a_byte_order_mark_is_no_part_of_a_hotword(tmp_path):
    (tmp_path / "words.txt").write_bytes(b"\xef\xbb\xbfA=2\n")
    assert parse_hotwords(str(tmp_path / "words.txt")) == (("A", 2.0),)


def test_hotwords_in_another_form_of_unicode_are_spelled_as_the_symbols_are():
    """A hotword typed on macOS could not be spelled, by a message that showed it as it should be."""
    symbols, apart = ("_", "|", *"phở"), unicodedata.normalize("NFD", "phở")
    found = Choice(hotwords=((apart, 2.0),)).make(symbols, 0)
    assert found.hotwords == (("phở", 2.0),)
    assert Choice(Name.beam, hotwords=((apart, None),)).make(symbols, 0).hotwords == ("phở",)
    with pytest.raises(UsageError, match=r"'phò' cannot be spelled .*, which have no 'ò' \(U\+00F2\)"):
        Choice(hotwords=(("phò", None),)).make(symbols, 0)


@pytest.mark.parametrize(("given", "says"), [
    ({"lm_weight": 0.5}, r"^lm_weight=0\.5 without a language model has no effect: give one as lm \(--lm\), or leave"),
    ({"lm_weight": 0.5, "beam": 5}, "^lm_weight=0.5 without a language model has no effect"),
    ({"word_score": 2.0}, "^word_score=2 without a language model has no effect on the greedy decoder"),
    ({"word_score": 2.0, "name": Name.beam}, "^word_score=2 without a language model has no effect on the beam"),
    ({"lm": "x.arpa", "lm_weight": "0.5"}, "^lm_weight='0.5': expected a number"),
    ({"name": "str"}, "^no decoder called 'str'; there are greedy, beam, lexicon, batched"),
    ({"name": 3}, "^no decoder called 3"), ({"nbest": 0}, "nbest 0: must be a whole number, 1 or more"),
    ({"nbest": None, "beam": 5}, "nbest None: must"), ({"beam": 2.5}, "beam 2.5: must"),
    ({"beam": "5"}, "beam '5': must"),
    ({"tokens_per_frame": 0, "beam": 5}, r"^tokens_per_frame \(--tokens\) 0: must be"),
    ({"hotwords": "ABC"}, "^hotword 'A': expected a pair"),
    ({"hotwords": ("AB",)}, r"^hotword 'AB': expected a pair of the word and its bonus in nats, or None"),
    ({"hotwords": (("A", "x"),)}, r"^hotword \('A', 'x'\): expected a pair"),
])
def test_wrong_settings_from_python_are_refused_and_not_passed_over(given, says):
    """Weights without a model were silently of no effect, and a decoder of an unknown name was the batched one."""
    with pytest.raises(UsageError, match=says):
        Choice(**given).make(SYMBOLS, 0)


def test_a_decoder_may_be_named_by_text_and_words_scored_without_a_model():
    assert Choice("beam").make(SYMBOLS, 0) == Choice(Name.beam).make(SYMBOLS, 0)
    assert choice_of(decoder="beam") == Choice(Name.beam)
    assert Choice(beam=5, word_score=-3.0).make(SYMBOLS, 0).word_score == -3.0


def test_options_may_score_words_without_a_language_model_where_the_search_does():
    """`choice_of` refused what `Choice` takes."""
    assert choice_of(decoder="batched", word_score=-3.0).make(SYMBOLS, 0).word_score == -3.0
    assert choice_of(beam=5, word_score=-3.0).chosen == Name.batched
    for options in ({}, {"decoder": "beam"}):
        with pytest.raises(UsageError, match=r"^word_score=-3 without a language model has no effect on the"):
            choice_of(word_score=-3.0, **options).make(SYMBOLS, 0)
    with pytest.raises(UsageError, match="weights without a language model have no effect"):
        choice_of(decoder="batched", lm_weight=1.0)
    with pytest.raises(UsageError, match=r"^no decoder called 'bean'; there are greedy"):
        choice_of(decoder="bean")


def test_zero_is_a_size_as_any_other_and_no_size_is_not_given():
    """`choice_of(beam=0)` was as without one, and `nbest=0` of greedy decoding was passed over."""
    with pytest.raises(UsageError, match="beam 0: must"):
        choice_of(beam=0).make(SYMBOLS, 0)
    with pytest.raises(UsageError, match=r"^tokens_per_frame \(--tokens\) 0: must"):
        choice_of(beam=5, tokens=0).make(SYMBOLS, 0)
    with pytest.raises(UsageError, match=r"^hotwords=\['A'\]: expected text"):
        choice_of(hotwords=["A"])


@pytest.mark.parametrize("blank", ["<pad>", None, -1, 5])
def test_the_blank_is_the_number_of_a_column(blank, tmp_path):
    for make in (Choice().make, Vocabulary, lambda *given: EmissionsWriter(tmp_path / "e", *given, 50.0)):
        with pytest.raises(InputError, match=f"{blank}"):
            make(SYMBOLS, blank)


@pytest.fixture(params=list(Name), ids=lambda name: name.value)
def decoder(request, tmp_path):
    return Choice(request.param, lm=None if request.param == Name.greedy else write_arpa(tmp_path)).make(SYMBOLS, 0)


@pytest.mark.parametrize("rate", [0, -50.0, float("nan"), float("inf"), None, "50"])
def test_a_rate_is_above_zero(decoder, rate, tmp_path):
    """Words began and ended before their recording at a rate below 0, and at none a division failed."""
    with pytest.raises(InputError, match=r"^rate=.*: expected frames a second \(Hz\), a number above 0$"):
        decoder.decode("u", sure_path("A|B"), rate)
    with pytest.raises(InputError, match=r"^rate="):
        EmissionsWriter(tmp_path / "emissions", SYMBOLS, 0, rate)


def test_emissions_are_numbers_one_for_each_id(decoder, tmp_path):
    for given in ("talk.wav", torch.zeros(3, 5, requires_grad=True), torch.zeros(3, 5, dtype=torch.bfloat16)):
        with pytest.raises(InputError, match=r"^emissions of type (str|Tensor) are no array of numbers: "):
            decoder.decode("u", given, 50.0)
    if isinstance(decoder, BatchedDecoder):
        with pytest.raises(InputError, match=r"^1 ids for the emissions of 2 utterances; give one for each$"):
            decoder.decode_batch(["u"], [sure_path("A")] * 2, 50.0)


def test_what_would_not_be_read_as_emissions_is_not_written(tmp_path):
    """Numbers for ids were found out at the end, with a traceback and nothing left; symbols that are none, and values
    of eight bits, when they were read."""
    with pytest.raises(InputError, match="symbol 2 is no text"):
        EmissionsWriter(tmp_path / "e", ["_", "|", 2], 0, 50.0)
    with pytest.raises(UsageError, match=r"^dtype='int8': expected float16 or float32$"):
        EmissionsWriter(tmp_path / "e", SYMBOLS, 0, 50.0, dtype="int8")
    with EmissionsWriter(tmp_path / "e", SYMBOLS, 0, 50.0) as writer:
        with pytest.raises(InputError, match=r"^emissions of 3: ids are text$"):
            writer.add(3, sure_path("A"))
        writer.add("3", np.log(np.full((2, 5), 0.2)))
    assert Emissions.load(tmp_path / "e").ids == ["3"]
