"""Decoders: from emissions to hypotheses. Each file is imported by its name."""
