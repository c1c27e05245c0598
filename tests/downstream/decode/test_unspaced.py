"""Scripts without spaces between words: our own search parts words where no separator was heard."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_arpa import ARPA, write_arpa
from test_batched import EVERYTHING, log10_of
from test_beam import LN10, SYMBOLS, every_text, random_logprobs

from downstream.decode.batched import BatchedDecoder, load_arrays
from downstream.decode.hypothesis import Candidate, Hypothesis, read_hypotheses, spaces_before, write_hypotheses
from downstream.decode.parting import Parting
from downstream.decode.rescoring import tune_weights


def partings(text, known=None):
    """Every way to part the words of a text further, into known words."""
    first, *rest = text.split(" ")
    for end in range(1, len(first) + 1):
        if known is None or first[:end] in known:
            after = [first[end:], *rest] if end < len(first) else rest
            yield from ([first[:end], *others] for others in (partings(" ".join(after), known) if after else [[]]))


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 5), seed=st.integers(0, 10_000), lm_weight=st.floats(0, 2), word_score=st.floats(-2, 2),
       penalty=st.sampled_from([None, -3.0]), device=st.sampled_from([None, "cpu"]))
def test_unspaced_search_finds_the_best_parting_of_every_text(tmp_path_factory, frames, seed, lm_weight, word_score,
                                                              penalty, device):
    logprobs = random_logprobs(frames, seed)
    expected = {}
    for text, acoustic in every_text(logprobs, "_|ABE").items():
        weighed = []
        for words in partings(text) if text else [[]]:
            log10, unknown = log10_of(words)
            if penalty is not None or not unknown:
                lm = LN10 * log10
                weighed.append((lm_weight * (lm + (penalty or 0.0) * unknown) + word_score * len(words), lm, unknown,
                                len(words)))
        if weighed:
            expected[text] = acoustic, {each[1:] for each in weighed if each[0] > max(weighed)[0] - 1e-6}, \
                acoustic + max(weighed)[0]
    decoder = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path_factory.getbasetemp()), None, lm_weight, word_score,
                             unknown_penalty=penalty, nbest=100_000, device=device, unspaced=True, **EVERYTHING)
    found = decoder.decode("u", logprobs, 50.0)
    assert {c.text for c in found.nbest} == set(expected)
    for c in found.nbest:
        acoustic, partings_, best = expected[c.text]
        assert (c.score, c.acoustic) == (pytest.approx(best, abs=1e-4), pytest.approx(acoustic, abs=1e-4))
        assert any((c.lm, c.unknown, c.word_count) == (pytest.approx(lm, abs=1e-4), unknown, words)
                   for lm, unknown, words in partings_)
    assert "".join(word.word for word in found.words) == found.text.replace(" ", "")


KNOWN = frozenset({"A", "B", "AB", "BE"})


@given(text=st.text("ABE ", max_size=9), lm_weight=st.floats(0, 2), word_score=st.floats(-2, 2))
@example(text="ABAB", lm_weight=1.0, word_score=0.0)
@example(text="AB ABE", lm_weight=0.5, word_score=2.0)
@example(text="AB", lm_weight=0.1, word_score=-1.0)
def test_a_text_falls_apart_as_the_best_of_all_ways_to_part_it(tmp_path_factory, text, lm_weight, word_score):
    """By which the score of a reference is known; one that is not of known words stays as spaces part it."""
    def weighed(words):
        return lm_weight * LN10 * log10_of(words)[0] + word_score * len(words)

    arrays = load_arrays(write_arpa(tmp_path_factory.getbasetemp()))
    found = Parting(arrays, KNOWN, lm_weight, word_score).part(text)
    chunks = text.split()
    every = list(partings(" ".join(chunks), KNOWN)) if chunks else []
    if every:
        assert "".join(found) == "".join(chunks)
        assert KNOWN.issuperset(found)
        assert weighed(found) == pytest.approx(max(map(weighed, every)), abs=1e-4)
    else:
        assert found == chunks


@pytest.mark.parametrize(("after_ab", "words"), [(-0.5, ["AB"]), (-3, ["A", "B"])])
def test_the_end_of_a_sentence_counts_in_how_a_text_falls_apart(tmp_path, after_ab, words):
    """In log10 A B has -.5 and -.5 at the end, AB has -2 and -.5, or -3, at the end; a word costs 4 nats."""
    (tmp_path / "lm.arpa").write_text(ARPA.replace("-0.5\tAB </s>", f"{after_ab}\tAB </s>"))
    assert Parting(load_arrays(tmp_path / "lm.arpa"), KNOWN, 1.0, -4.0).part("AB") == words


def path_of(symbols, path, sure=0.9):
    """(T, V) float32 log-probabilities of a path of symbols, of which each frame is so sure."""
    rows = np.full((len(path), len(symbols)), (1 - sure) / (len(symbols) - 1), np.float32)
    rows[np.arange(len(path)), [symbols.index(s) for s in path]] = sure
    return np.log(rows)


def character_model(folder, words):
    """A model of words that are all alike, but that 他们 is likelier than 她们."""
    lines = "".join(f"-1\t{word}\t0\n" for word in words)
    path = folder / "characters.arpa"
    path.write_text(f"\\data\\\nngram 1={len(words) + 3}\nngram 2=1\n\n\\1-grams:\n-3\t<unk>\n-99\t<s>\t0\n-1\t</s>\n"
                    f"{lines}\n\\2-grams:\n-0.1\t他 们\n\n\\end\\\n", encoding="utf-8")
    return path


CHINESE = ("_", "|", *"他她们看书")


def test_a_model_of_characters_decodes_a_recogniser_that_writes_no_spaces(tmp_path):
    """Words had to end with a separator, which a recogniser of unspaced transcripts never says: most characters were
    left out, and the character error rate of Mandarin rose from 18 without a language model to 71 with one."""
    lm = character_model(tmp_path, "他她们看书")
    logprobs = path_of(CHINESE, "_她们_看书_")
    logprobs[1, [2, 3]] = np.log([0.45, 0.5])  # 他 is nearly as likely as 她
    assert BatchedDecoder(CHINESE, 0, lm).decode("u", logprobs, 50.0).text != "他们看书"
    found = BatchedDecoder(CHINESE, 0, lm, lm_weight=1.0, nbest=99, unspaced=True).decode("u", logprobs, 50.0)
    assert found.text == "他们看书"
    assert "她们看书" in {c.text for c in found.nbest}
    assert [(w.word, w.start_s, w.end_s) for w in found.words] == [
        ("他", 0.02, 0.04), ("们", 0.04, 0.06), ("看", 0.08, 0.1), ("书", 0.1, 0.12)]
    assert [c.word_count for c in found.nbest] == [len(c.text.replace(" ", "")) for c in found.nbest]
    write_hypotheses(tmp_path / "h.jsonl", [found])
    assert read_hypotheses(tmp_path / "h.jsonl") == [found]


def test_words_of_several_characters_are_parted_and_a_separator_that_is_heard_stays(tmp_path):
    decoder = BatchedDecoder(CHINESE, 0, lexicon=("他们", "看书", "看"), unspaced=True)
    found = decoder.decode("u", path_of(CHINESE, "他们看书"), 50.0)
    assert (found.text, [w.word for w in found.words]) == ("他们看书", ["他们", "看书"])
    found = decoder.decode("u", path_of(CHINESE, "他们|看书看"), 50.0)
    assert (found.text, [w.word for w in found.words]) == ("他们 看书看", ["他们", "看书", "看"])
    assert spaces_before(found) == [True, True, False]


def test_a_letter_said_twice_over_the_end_of_a_word_needs_a_blank_between(tmp_path):
    decoder = BatchedDecoder(CHINESE, 0, lexicon=("看",), unspaced=True)
    assert decoder.decode("u", path_of(CHINESE, "看看看"), 50.0).text == "看"
    assert decoder.decode("u", path_of(CHINESE, "看_看"), 50.0).text == "看看"


def test_an_unfinished_word_of_unspaced_speech_is_left_out(tmp_path):
    decoder = BatchedDecoder(CHINESE, 0, lexicon=("他们", "看书"), unspaced=True)
    found = decoder.decode("u", path_of(CHINESE, "_他们看_", sure=0.999999999), 50.0)
    assert (found.text, found.unfinished) == ("他们", True)


def test_a_hotword_is_found_inside_of_a_sentence_without_spaces():
    logprobs = path_of(CHINESE, "看_她_们看")
    logprobs[2, [2, 3]] = np.log([0.3, 0.6])
    hotwords = (("他们", 5.0),)
    assert BatchedDecoder(CHINESE, 0, hotwords=hotwords).decode("u", logprobs, 50.0).text == "看她们看"
    found = BatchedDecoder(CHINESE, 0, hotwords=hotwords, unspaced=True).decode("u", logprobs, 50.0)
    assert found.text == "看他们看"
    assert math.isfinite(found.score)


def test_rescoring_weights_of_texts_without_spaces_are_tuned_by_characters():
    """A text with one character wrong of ten was as bad as one with all of them wrong."""
    texts = ["他们看书看书", "他们看书书书", "看看看看看看"]
    listed = Hypothesis("u", texts[0], -1.0, -1.0, nbest=tuple(
        Candidate(text, -1.0 - place, -1.0 - place, 0.0, 0, len(text)) for place, text in enumerate(texts)))
    found = tune_weights([listed], [[0.0, 0.0, 0.0]], ["她们看书看书"], unit="character")
    assert (found.unit, found.wer, found.wer_oracle) == ("character", pytest.approx(100 / 6), pytest.approx(100 / 6))
    assert tune_weights([listed], [[0.0, 0.0, 0.0]], ["她们看书看书"]).wer == 100
