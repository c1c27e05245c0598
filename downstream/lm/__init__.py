"""N-gram language models. Each file is imported by its name.

`kneser_ney`: `estimate`, `Options`, `FALLBACK`; `arpa`: `write_arpa`, `read_arpa`, `read_unigrams`, `ngram_counts`;
`loading`: `load_arpa`; `pruning`: `prune_to_ngrams`, `prune_to_bytes`, `prune_to_loss`; `interpolation`: `Pair`;
`on_disk`: `estimate_to_file`; `arrays`: `NgramArrays`, `pack`; `kenlm_file`: `load_kenlm`; `scoring`: `score_words`,
`score_sentence`, `perplexity` (natural logarithms); `rescoring`: `CausalModel`; `character_model`: `CharacterModel`,
`train_characters`.
"""
