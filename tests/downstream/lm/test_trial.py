"""How long a language model would take, by the beginning of its text."""

import gzip

import pytest

from downstream.lm import trial
from downstream.lm.kneser_ney import Options
from downstream.lm.reading import read_words


@pytest.mark.parametrize("name", ["text", "text.gz"])
def test_the_time_of_a_part_stands_for_the_whole(tmp_path, monkeypatch, name):
    content = b"".join(b"w%d w%d\n" % (i, i + 1) for i in range(40_000))
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    estimated, clock = [], iter([0.0, 2.0, 5.0, 7.0])

    def estimate(texts, order, options):
        estimated.append(texts[0].read_bytes())
        return real(texts, order, options)

    real = trial.estimate
    monkeypatch.setattr(trial, "estimate", estimate)
    monkeypatch.setattr("downstream.lm.trial.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(trial, "TRIED", len(content) // 4)
    assert trial.estimation_seconds(tmp_path / name, 2, Options()) == pytest.approx(8, rel=0.3)  # packed, less exactly
    assert content.startswith(estimated[0])
    assert estimated[0].endswith(b"\n")
    monkeypatch.setattr(trial, "TRIED", 2 * len(content))
    assert trial.estimation_seconds(tmp_path / name, 2, Options()) == 2
    assert estimated[1] == content


@pytest.mark.parametrize("tried", [1000, 1001])
def test_a_beginning_that_ends_within_a_letter_is_tried(tmp_path, monkeypatch, tried):
    """Bug: of a text of one long line it was refused as no UTF-8, by the name of a file that nobody knows."""
    (tmp_path / "text").write_text("é ü " * 1000)
    monkeypatch.setattr(trial, "TRIED", tried)
    assert trial.estimation_seconds(tmp_path / "text", 2, Options()) > 0


def test_words_of_a_text_are_read_until_there_are_enough(tmp_path, monkeypatch):
    monkeypatch.setattr("downstream.lm.reading._TOKENS", 100)
    (tmp_path / "text").write_text("".join(f"w{i}\n" for i in range(1000)))
    sizes = []
    found = read_words(tmp_path / "text", lambda words: sizes.append(len(words)) or len(words) > 100)
    assert sizes == [34, 68, 136]  # three tokens a line
    assert found == {f"w{i}" for i in range(136)}
    assert read_words(tmp_path / "text", lambda words: False) == {f"w{i}" for i in range(1000)}
