import gzip
from pathlib import Path

import numpy as np
import pytest
from test_arpa import GOOD

from downstream.lm.arpa import ngram_counts, read_arpa, read_unigrams, write_arpa
from downstream.lm.kenlm_file import load_kenlm
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from downstream.lm.loading import load_arpa, rows_of
from upstream.errors import FormatError, UsageError

ORACLES = Path(__file__).parents[2] / "oracles/kenlm"


@pytest.mark.parametrize(("name", "rows"), [("small.o1", 200_000), ("tiny.o3.fb", 1), ("small.o4.prune01", 7),
                                            ("small.o4.prune01", 200_000)])
def test_a_model_is_read_as_the_tables_are(tmp_path, monkeypatch, name, rows):
    monkeypatch.setattr("downstream.lm.loading._ROWS", rows)
    path = ORACLES / f"arpa/{name}.arpa.gz"
    told: list[float] = []
    model = load_arpa(path, lambda done, total: told.append(done / total))
    write_arpa(model, tmp_path / "again.arpa")
    assert read_arpa(tmp_path / "again.arpa") == read_arpa(path)
    assert told == sorted(told)
    assert told[-1] == 1


def test_an_estimated_model_is_read_as_it_was(tmp_path):
    model = estimate([ORACLES / "text/tiny.txt"], 4, Options(fallback=FALLBACK))
    write_arpa(model, tmp_path / "lm.arpa")
    found = load_arpa(tmp_path / "lm.arpa")
    assert found.words == model.words
    for ours, theirs in zip(found.orders, model.orders, strict=True):
        assert (ours.prefix == theirs.prefix).all()
        assert (ours.word == theirs.word).all()
        assert (ours.logprob == theirs.logprob).all()
        assert (ours.backoff == theirs.backoff).all()


ARPA = GOOD.replace("ngram 1=3", "ngram 1=4").replace("-0.5\tA\t0", "-0.4\t</s>\n-0.5\tA\t0")


@pytest.mark.parametrize(("damage", "says"), [
    (lambda t: t.replace("ngram 1=4", "ngram 1=5"), "line 10: 4 1-grams, the header says 5"),
    (lambda t: t.replace("ngram 2=1", "ngram 2=2"), "line 13: 1 2-grams, the header says 2"),
    (lambda t: t[:t.index("\\end")].strip().replace("ngram 2=1", "ngram 2=2"), "line 12: 1 2-grams, .* says 2"),
    (lambda t: t.replace("ngram 1=4", "ngram 1=3"), "line 9: expected .2-grams"),
    (lambda t: t.replace("-0.5\tA", "half\tA"), "line 9: 'half' is no number"),
    (lambda t: t.replace("-0.5\tA", "nan\tA"), "line 9: 'nan' is no number"),
    (lambda t: t.replace("-0.5\tA", "0.5\tA"), "line 9: log10 probability of 0.5"),
    (lambda t: t.replace("A\t0", "A\tA\tA\t0"), "line 9: .* is no 1-gram"),
    (lambda t: t.replace("<s> A", "<s>"), "line 12: .* is no 2-gram"),
    (lambda t: t.replace("<s> A", "<s> B"), "line 12: 'B' is none of the 1-grams"),
    (lambda t: t[:t.index("<s> A") + 3], "line 12: '-0.2.t<s>' is no 2-gram; the file ends here"),
    (lambda t: t.replace("<unk>", "A"), "line 9: a second 'A'"), (lambda t: t.replace("</s>", "B"), "no </s>"),
    (lambda t: t.replace("2=1", "2=2").replace("<s> A", "<s> A\n-.1\t<s> A"), "line 13: this 2-gram stands there tw"),
    (lambda t: t.replace("2=1\n", "2=1\nngram 3=1\n").replace("\\end", "\\3-grams:\n-1\tA A A\n\n\\end"),
     "line 16: the first 2 words of this 3-gram are no 2-gram"),
    (lambda t: t.replace("\\end\\", ""), "cut short"), (lambda t: "words", "line 1: not an ARPA file"),
    (lambda t: t.encode().replace(b"A", b"\xff"), "line 9: cannot be read"), (lambda t: "", "an empty file"),
    (lambda t: gzip.compress(t.encode())[:-12], "is it whole"),
    (lambda t: (ORACLES / "arpa/small.o3.arpa.gz").read_bytes()[:60_000], r"line \d{4,}: .*is it whole"),
    (lambda t: gzip.compress(b""), "cut short"),
])
def test_a_damaged_file_is_named_with_its_line(tmp_path, damage, says):
    path, damaged = tmp_path / "bad.arpa", damage(ARPA)
    path.write_bytes(damaged.encode() if isinstance(damaged, str) else damaged)
    with pytest.raises(FormatError, match=says) as caught:
        load_arpa(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.arpa: no such"):
        load_arpa(tmp_path / "none.arpa")


def test_columns_may_be_parted_by_spaces_and_lines_by_two_characters(tmp_path):
    (tmp_path / "other.arpa").write_bytes(ARPA.replace("\t", "  ").replace("\n\n", "\n").replace("\n", " \r\n").replace(
        "=1 \r\n", "=1\r\n\r\n").replace("=4 ", "=4").encode())
    (tmp_path / "good.arpa").write_text(ARPA)
    found, expected = load_arpa(tmp_path / "other.arpa"), load_arpa(tmp_path / "good.arpa")
    assert found.words == expected.words == ["<unk>", "<s>", "</s>", "A"]
    assert all((a.logprob == b.logprob).all() and (a.backoff == b.backoff).all()
               for a, b in zip(found.orders, expected.orders))


@pytest.mark.parametrize(("change", "taken"), [
    (lambda t: t, True), (lambda t: t.replace("\n", " \n"), True), (lambda t: t.replace("\n", "\t \n"), True),
    (lambda t: t.replace("\t", "  "), True), (lambda t: t.replace("<s> A", "<s>  \t A"), True),
    (lambda t: t.replace("-0.5\t", " -0.5\t"), True), (lambda t: t.replace("\n", "\r\n"), True),
    (lambda t: f"# made by hand\n\n#\n{t}", True), (lambda t: f"made by hand\n{t}", False),
    (lambda t: t.replace("\\1-grams:\n", "\\1-grams:\n# of one word\n"), False),
    (lambda t: t.replace("A", "A\u00a0A"), True), (lambda t: t.replace("A", "A\u3000A"), True),
    (lambda t: t.replace("A", "A\fA"), True), (lambda t: t.replace("\tA", "\u00a0A"), False)])
def test_both_readers_take_the_same_files(tmp_path, change, taken):
    """`decode` took files that `tune`, `decode-check` and `lm info` refused: with blanks at the ends of lines."""
    path = tmp_path / "lm.arpa"
    path.write_bytes(change(ARPA).encode())
    if not taken:
        for read in (load_arpa, read_arpa, read_unigrams, ngram_counts):
            with pytest.raises(FormatError, match=r"lm\.arpa, line \d"):
                read(path)
        return
    [unigrams, bigrams], model = read_arpa(path), load_arpa(path)
    [word] = read_unigrams(path)
    assert ngram_counts(path) == [4, 1]
    assert model.words == ["<unk>", "<s>", "</s>", word]
    assert unigrams.keys() == {(known,) for known in model.words}
    assert bigrams == {("<s>", word): (-0.2, 0.0)}
    assert model.orders[1].word.tolist() == [3]


def test_a_model_without_unk_gets_that_of_kenlm_and_it_is_said(tmp_path):
    (tmp_path / "lm.arpa").write_text(ARPA.replace("-1\t<unk>\t0\n", "").replace("1=4", "1=3"))
    said: list[str] = []
    model = load_arpa(tmp_path / "lm.arpa", say=said.append)
    assert model.words == ["<unk>", "<s>", "</s>", "A"]
    assert model.orders[0].logprob.tolist() == [-100.0, 0.0, np.float32(-0.4), -0.5]
    assert len(said) == 1
    assert "lm.arpa, lines 6 to 8: no <unk>" in said[0]


def test_minus_infinity_is_minus_99(tmp_path):
    (tmp_path / "lm.arpa").write_text(ARPA.replace("-0.3", "-inf"))
    assert load_arpa(tmp_path / "lm.arpa").orders[0].backoff[1] == -99


def test_rows_of_ngrams_are_found_and_missed():
    bigrams = load_arpa(ORACLES / "arpa/small.o2.arpa.gz").orders[1]
    size = 1675
    rows, there = rows_of(bigrams, bigrams.prefix[5:9], bigrams.word[5:9], size)
    assert rows.tolist() == [5, 6, 7, 8]
    assert there.all()
    there = rows_of(bigrams, np.array([2, -1, size - 1]), np.array([2, size - 1, size - 1]), size)[1]
    assert there.tolist() == [False, False, False]


def test_unk_in_capitals_is_the_unknown_word_as_in_kenlm(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA)
    expected = load_arpa(path)
    path.write_text(ARPA.replace("<unk>", "<UNK>"))
    said: list[str] = []
    found = load_arpa(path, say=said.append)
    assert ngram_counts(path, say=said.append)
    assert (found.words, said) == (expected.words, [])
    assert found.orders[0].logprob.tolist() == expected.orders[0].logprob.tolist()
    assert read_unigrams(path) == ["A"]
    kenlm = load_kenlm(path)
    assert [score for score, _, _ in kenlm.full_scores("X A", eos=False)] == pytest.approx([-1.3, -0.5])


def test_a_model_with_two_unknown_words_is_told_of(tmp_path):
    """KenLM scores unknown words as the second of them, we as <unk>, and <UNK> as a word of its own."""
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA.replace("ngram 1=4", "ngram 1=5").replace("\n\n\\2-grams", "\n-0.7\t<UNK>\n\n\\2-grams"))
    for read in (load_arpa, ngram_counts):
        said: list[str] = []
        read(path, say=said.append)
        [line] = said
        assert line.startswith(f"{path}, lines 6 to 10: both <unk> and <UNK> among the 1-grams")
    assert [round(score, 3) for score, _, _ in load_kenlm(path).full_scores("X", eos=False)] == [-1.0]


def test_ngrams_with_unk_in_capitals_are_read(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA.replace("<unk>", "<UNK>").replace("ngram 2=1", "ngram 2=2").replace(
        "\n\n\\end", "\n-0.7\t<s> <UNK>\n\n\\end"))
    bigrams = load_arpa(path).orders[1]
    assert sorted(bigrams.word.tolist()) == [0, 3]
