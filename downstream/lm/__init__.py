"""N-gram language models. Each file is imported by its name.

`kneser_ney`: `estimate`, `Options`, `FALLBACK`; `arpa`: `write_arpa`, `read_arpa`, `read_unigrams`, `ngram_counts`;
`scoring`: `score_words`, `score_sentence`, `perplexity`, `load_kenlm` (natural logarithms).
"""
