"""Training: one loop for pretraining and fine-tuning. Each file is imported by its name."""
