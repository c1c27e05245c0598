"""Text: normalisation, vocabularies, lexicons. Each file is imported by its name."""
