"""Text. Each file is imported by its name.

`normalise`: `normalise`; `vocabulary`: `Vocabulary`; `lexicon`: `Lexicon`.
"""
