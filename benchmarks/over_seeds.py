"""What several fine-tunings of the same cells say together: means, how much seeds vary, and paired differences.

A mean over seeds has two uncertainties. Its interval is of the test utterances: what others like them would have given
with these very recognisers. The standard deviation is of the fine-tunings: what another seed would have given on these
utterances. Neither covers the other, and pretraining, done once, is in none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluation import DECODED, hypotheses_file, references
from downstream.decode.hypothesis import read_hypotheses
from downstream.score.compare import compare_trainings, errors_of, sizes_of, summed_errors
from downstream.score.intervals import bootstrap_interval
from downstream.score.rates import RATES, Unit, UtteranceCounts, score
from downstream.score.significance import holm
from upstream.audio.manifest import Manifest
from upstream.progress import progress

Row = dict[str, Any]
COVERED = "test utterances, with the fine-tunings that there are"


class Tally:
    """Summaries and comparisons of the cells that are done. What was once computed of the same cells is kept, as they
    are asked for after each."""

    def __init__(self, cells: Path, test: Manifest, seed: int, resamples: int, unit: Unit = "word",
                 rates: Sequence[str] = RATES) -> None:
        """
        Args:
            cells: folder of the cells, by the `cell` of their rows.
            test: the utterances that were decoded, with their texts.
            seed: of what is drawn for intervals and p-values.
            resamples: of the intervals of summaries, as of those of single rows.
            unit: that errors are counted in; with `character` `wer` and `cer` are both the character error rate.
            rates: that are compared, in this order.
        """
        self._cells, self._speakers, self._seed, self._resamples = cells, test.speakers, seed, resamples
        self._unit: Unit = unit
        self._rates, self._references = rates, references(test)
        self._counts: dict[tuple[str, str], UtteranceCounts] = {}
        self._found: dict[tuple[str, ...], dict[str, Any]] = {}

    def summaries(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """One of every amount of labels, encoder and decoder.

        Returns:
            `seeds`, a list of them; of each rate in percent the mean over the seeds (`wer`), the standard deviation of
            single seeds (`wer_sd`, with n - 1; None of one seed) and the interval of 95% of the mean (`wer_interval`,
            as that of a row where there is one seed), which covers what `interval_covers` says.
        """
        found, groups = [], _groups(rows)
        with progress("rates over seeds", len(groups)) as report:
            for labelled, encoder, decoder, of_seeds in groups:
                place = {"labelled": labelled, "encoder": encoder, "decoder": decoder,
                         "seeds": [row["seed"] for row in of_seeds]}
                found.append(place | self._kept("summary", of_seeds, self._summary, of_seeds))
                report(len(found))
        return found

    def comparisons(self, rows: Sequence[Row], against: Sequence[str]) -> list[dict[str, Any]]:
        """Paired differences between encoders with the same labels and decoder, of the seeds that both have.

        Args:
            against: encoders to compare the others with; where there are two, the second is not compared with the
                first once more.

        Returns:
            Of each: `difference`, `interval`, `p_value` and `by_speaker` as `compare_trainings` gives them but rounded,
            `per_seed` the difference of every seed by itself, and `p_holm`: the p-value among those of all comparisons
            of the same rate and decoder. It says how sure a difference is on other test utterances or speakers, not
            with other seeds.
        """
        groups = {(labelled, encoder, decoder): of_seeds for labelled, encoder, decoder, of_seeds in _groups(rows)}
        found = []
        with progress("comparing", len(groups) * len(against)) as report:
            for place, base in enumerate(against):
                for number, ((labelled, encoder, decoder), of_seeds) in enumerate(groups.items()):
                    if encoder not in against[:place + 1]:
                        pairs = _pairs(of_seeds, groups.get((labelled, base, decoder), []))
                        found += self._compared(pairs, {"labelled": labelled, "decoder": decoder, "encoder": encoder,
                                                        "against": base})
                    report(place * len(groups) + number + 1)
        add_holm(found)
        return found

    def _summary(self, rows: list[Row]) -> dict[str, Any]:
        counts = [self._count(row) for row in rows]
        found: dict[str, Any] = {}
        for rate in RATES:
            sizes = sizes_of(counts[0], rate)
            rates = [100 * errors_of(one, rate).sum() / sizes.sum() for one in counts]
            interval = bootstrap_interval(summed_errors(counts, rate), len(counts) * sizes, seed=self._seed,
                                          resamples=self._resamples)
            found |= {rate: round(float(np.mean(rates)), 3),
                      f"{rate}_sd": round(float(np.std(rates, ddof=1)), 3) if len(rates) > 1 else None,
                      f"{rate}_interval": interval.rounded}
        return found | {"interval_covers": COVERED}

    def _compared(self, pairs: list[tuple[Row, Row]], place: dict[str, Any]) -> list[dict[str, Any]]:
        if not pairs:
            return []
        seeds = [row["seed"] for row, _ in pairs]
        both = [row for pair in pairs for row in pair]
        return [place | {"rate": rate, "seeds": seeds} | self._kept(rate, both, self._difference, pairs, rate)
                for rate in self._rates]

    def _difference(self, pairs: list[tuple[Row, Row]], rate: str) -> dict[str, Any]:
        first, second = ([self._count(pair[side]) for pair in pairs] for side in (0, 1))
        per_seed = []
        for (row, _), one, other in zip(pairs, first, second):
            points = 100 * (errors_of(one, rate) - errors_of(other, rate)).sum() / sizes_of(one, rate).sum()
            per_seed.append({"seed": row["seed"], "difference": round(float(points), 3)})
        return compare_trainings(first, second, rate, self._seed, self._speakers) | {"per_seed": per_seed}

    def _count(self, row: Row) -> UtteranceCounts:
        """Errors of every utterance of one fine-tuning by one decoder."""
        key = row["cell"], row["decoder"]
        if key not in self._counts:
            folder = self._cells / row["cell"] / DECODED
            texts = {h.id: h.text for h in read_hypotheses(folder / hypotheses_file(row["decoder"]))}
            self._counts[key] = score(self._references, texts, self._unit).per_utterance
        return self._counts[key]

    def _kept(self, what: str, rows: list[Row], compute: Callable[..., dict[str, Any]], *of: Any) -> dict[str, Any]:
        """`compute(*of)`, or what it gave for the same rows before."""
        key = (what, rows[0]["decoder"], *(row["cell"] for row in rows))
        if key not in self._found:
            self._found[key] = compute(*of)
        return deepcopy(self._found[key])


def add_holm(comparisons: list[dict[str, Any]]) -> None:
    """Write `p_holm` beside every `p_value`, among the comparisons of one rate and decoder: over utterances, and apart
    from these over speakers. Both are rounded, the one that is there once it has been used."""
    for family in {(c["rate"], c["decoder"]) for c in comparisons}:
        members = [c for c in comparisons if (c["rate"], c["decoder"]) == family]
        by_speaker = [c["by_speaker"] for c in members if "by_speaker" in c]
        for tests in (members, by_speaker):
            for test, adjusted in zip(tests, holm([test["p_value"] for test in tests])):
                test |= {"p_value": round(test["p_value"], 5), "p_holm": round(adjusted, 5)}


def _groups(rows: Sequence[Row]) -> list[tuple[str, str, str, list[Row]]]:
    """Rows that differ in nothing but the seed, in the order in which the first of each came."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["labelled"], row["encoder"], row["decoder"]), []).append(row)
    return [(*key, of_seeds) for key, of_seeds in found.items()]


def _pairs(rows: list[Row], others: list[Row]) -> list[tuple[Row, Row]]:
    """Those of the same seed."""
    by_seed = {row["seed"]: row for row in others}
    return [(row, by_seed[row["seed"]]) for row in rows if row["seed"] in by_seed]
