"""The official set-up, on small files of the same form: its weights, its search, and what it refuses."""

import math

import numpy as np
import pytest
from small_arpa import write_arpa
from test_beam import random_logprobs

from downstream.decode.batched import BatchedDecoder
from downstream.decode.beam import BeamDecoder
from downstream.decode.choice import HOTWORD_NATS
from downstream.decode.lexicon import LexiconDecoder
from downstream.decode.recipe import DecodingRecipe, PublishedWeights, load_decoding
from downstream.text.vocabulary import Vocabulary
from tools.decoding_recipe import recipe_decoder
from upstream.errors import FormatError, RecipeError, UsageError

FAIRSEQ = Vocabulary(("<s>", "<pad>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"), 0)
LIST = "A\tA |\nB\tB |\nAB\tA B |\nBE\tB E |\n"


@pytest.fixture
def files(tmp_path):
    """A bigram model and a lexicon in the form of LibriSpeech's."""
    (tmp_path / "lexicon.txt").write_text(LIST)
    return [f"lm={write_arpa(tmp_path, zipped=True)}", f"lexicon={tmp_path / 'lexicon.txt'}"]


@pytest.mark.parametrize(("settings", "log10", "word_score"), [
    ([], 2.46, -0.59),
    (["labels=10min"], 3.23, -0.26), (["labels=1h"], 2.90, -1.62), (["labels=100h"], 2.15, -0.52),
    (["labels=960h"], 1.74, 0.52), (["labels=10min", "pretrained_on=libri-light-60k"], 3.86, -1.18),
    (["labels=1h", "pretrained_on=libri-light-60k"], 3.09, -2.33),
    (["pretrained_on=libri-light-60k"], 2.12, -0.90), (["labels=100h", "pretrained_on=libri-light-60k"], 2.15, -0.52),
    (["labels=960h", "pretrained_on=libri-light-60k"], 1.57, -0.64),
])
def test_published_weights_become_natural(files, settings, log10, word_score):
    decoder = load_decoding("librispeech-4gram", [*files, *settings]).make(FAIRSEQ.symbols, FAIRSEQ.blank)
    assert isinstance(decoder, LexiconDecoder)
    assert decoder.lm_weight == pytest.approx(log10 / math.log(10))
    assert decoder.word_score == word_score
    assert (decoder.beam, decoder.beam_threshold, decoder.silence_score) == (1500, 100, 0)


def test_without_a_lexicon_the_words_are_those_of_the_model(files):
    decoder = load_decoding("librispeech-4gram", files[:1]).make(FAIRSEQ.symbols, 0)
    whole = load_decoding("librispeech-4gram", files).make(FAIRSEQ.symbols, 0)
    logprobs = np.full((6, 32), -20.0, np.float32)
    for frame, column in enumerate([7, 24, 4, 24, 5, 4]):  # A B | B E |
        logprobs[frame, column] = 0.0
    assert decoder.decode("u", logprobs, 50.0) == whole.decode("u", logprobs, 50.0)
    assert decoder.decode("u", logprobs, 50.0).text == "AB BE"


def test_the_conversion_by_hand(files):
    """torchaudio's HuBERT of ten hours: 2.46 per log10; a bigram of log10 -.5 weighs -1.23 either way."""
    weight, _ = load_decoding("librispeech-4gram", files).weights()
    assert weight == pytest.approx(1.0684, abs=1e-4)
    assert weight * math.log(10 ** -0.5) == pytest.approx(2.46 * -0.5)


def test_it_decodes_as_flashlight_does_with_the_published_numbers(files):
    import torch
    from torchaudio.models.decoder import ctc_decoder

    decoder = load_decoding("librispeech-4gram", files).make(FAIRSEQ.symbols, FAIRSEQ.blank)
    (lm, lexicon), seen = (word.partition("=")[2] for word in files), set()
    theirs = ctc_decoder(lexicon, list(FAIRSEQ.symbols), lm, lm_weight=2.46, word_score=-0.59, beam_size=1500,
                         beam_threshold=100, blank_token="<s>", sil_token="|", unk_word="<unk>")
    for seed in range(12):
        rows = random_logprobs(8, seed, symbols=5)
        logprobs = np.full((9, 32), -200.0, np.float32)
        logprobs[:8, [0, 4, 7, 24, 5]] = rows  # blank, |, A, B, E
        logprobs[8, 4] = 0.0  # torchaudio finishes no word without its separator
        expected = " ".join(theirs(torch.from_numpy(logprobs)[None])[0][0].words)
        assert decoder.decode("u", logprobs, 50.0).text == expected
        seen.add(expected)
    assert len(seen) == 3


def test_settings_change_and_other_decoders_take_it(files):
    tuning = load_decoding("librispeech-4gram", [*files, "beam=500", "lm_weight=0.8", "word_score=0.1", "nbest=5"])
    decoder = tuning.make(FAIRSEQ.symbols, 0)
    assert (decoder.beam, decoder.lm_weight, decoder.word_score, decoder.nbest) == (500, 0.8, 0.1, 5)
    batched = load_decoding("librispeech-4gram", [*files, "decoder=batched", "silence_score=null", "beam_threshold=20"])
    made = batched.make(FAIRSEQ.symbols, 0)
    assert isinstance(made, BatchedDecoder)
    assert (made.lexicon, made.beam_threshold, made.lm_weight) == (("A", "B", "AB", "BE"), 20, pytest.approx(1.0684,
                                                                                                            abs=1e-4))
    beam = load_decoding("librispeech-4gram", [*files, "decoder=beam", "silence_score=null", "beam_threshold=null",
                                               "lexicon=null"]).make(FAIRSEQ.symbols, 0)
    assert isinstance(beam, BeamDecoder)


def test_a_recipe_of_ones_own(files, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"decoder: beam\nlm: {files[0][3:]}\nlm_weight: 0.7\nword_score: 1\nbeam: 25\n")
    made = load_decoding(path).make(FAIRSEQ.symbols, 0)
    assert (made.lm_weight, made.word_score, made.beam) == (0.7, 1.0, 25)
    path.write_text("decoder: greedy\n")
    assert load_decoding(path).make(FAIRSEQ.symbols, 0).decode("u", np.zeros((0, 32)), 50.0).text == ""


@pytest.mark.parametrize(("settings", "says"), [
    (["labels=5h"], "there are those of 10min, 1h, 10h, 100h, 960h"),
    (["pretrained_on=voxpopuli"], "there are those of librispeech-960, libri-light-60k"),
    (["decoder=batched"], "silence_score is for decoder=lexicon"),
    (["decoder=beam", "silence_score=null"], "beam_threshold is for"),
    (["decoder=flashlight"], "decoder"), (["beems=5"], "did you mean beam"), (["beam=wide"], "beam"),
])
def test_what_cannot_be_is_named(files, settings, says):
    with pytest.raises(RecipeError, match=says):
        load_decoding("librispeech-4gram", [*files, *settings])


def test_what_must_be_given_and_files_that_do_not_fit_are_named(files, tmp_path):
    with pytest.raises(RecipeError, match="lm=FILE must be given"):
        load_decoding("librispeech-4gram")
    (tmp_path / "mine.yaml").write_text("decoder: beam\n")
    for weight in ("lm_weight=0.5", "word_score=1"):
        with pytest.raises(RecipeError, match=r"weigh a language model: give one with lm=FILE"):
            load_decoding(tmp_path / "mine.yaml", [weight])
    for without in (DecodingRecipe(lm_weight=0.5), DecodingRecipe(published={"": {"": PublishedWeights(2.46, -0.59)}})):
        with pytest.raises(RecipeError, match="lm=FILE"):
            without.make(FAIRSEQ.symbols, 0)
    with pytest.raises(UsageError, match="those that ship: librispeech-4gram"):
        load_decoding("librispeech")
    with pytest.raises(UsageError, match="no such lexicon"):
        load_decoding("librispeech-4gram", [files[0], "lexicon=none"]).make(FAIRSEQ.symbols, 0)
    (tmp_path / "lexicon.txt").write_text(LIST.replace("B E |", "b e |"))
    with pytest.raises(FormatError, match="line 4: the recogniser has no symbol 'b'"):
        load_decoding("librispeech-4gram", files).make(FAIRSEQ.symbols, 0)


def test_the_options_of_a_command_become_a_decoder_or_one_line(files):
    made = recipe_decoder("librispeech-4gram", [*files, "nbest=3"], FAIRSEQ.symbols, 0, lm=None, beam=None)
    assert made == load_decoding("librispeech-4gram", [*files, "nbest=3"]).make(FAIRSEQ.symbols, 0)
    with pytest.raises(UsageError, match="--lm-weight, --beam beside --recipe"):
        recipe_decoder("librispeech-4gram", files, FAIRSEQ.symbols, 0, lm_weight=1.0, beam=5, lm=None)


def test_hotwords_go_beside_a_recipe_and_its_keys_are_named_as_it_has_them(files, tmp_path):
    """Bug: `--recipe R --hotwords CAT` was refused, with advice (`--set hotwords=CAT`) that was refused itself."""
    (tmp_path / "mine.yaml").write_text("decoder: batched\n")
    made = recipe_decoder(str(tmp_path / "mine.yaml"), None, FAIRSEQ.symbols, 0, "BE=3,BEE", lm=None)
    assert made.hotwords == (("BE", 3.0), ("BEE", HOTWORD_NATS))
    with pytest.raises(UsageError, match=r"^hotwords has no effect on the lexicon decoder"):
        recipe_decoder("librispeech-4gram", files, FAIRSEQ.symbols, 0, "BE")
    with pytest.raises(UsageError, match=r"--tokens, --tuned beside --recipe: .* with --set tokens_per_frame=\.\.\. "
                                         r"--set lm_weight=\.\.\. --set word_score=\.\.\."):
        recipe_decoder("librispeech-4gram", files, FAIRSEQ.symbols, 0, tokens=5, tuned="t.json")
