"""From measured files to what goes into a paper, a model card or a pull request. Each file is imported by its name."""
