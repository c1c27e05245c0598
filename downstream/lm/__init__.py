"""N-gram language models: counting, estimation, ARPA files, scoring. Each file is imported by its name."""
