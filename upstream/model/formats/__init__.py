"""Checkpoints of others: what each format calls things, read into a `Checkpoint` and written from one."""

from upstream.model.formats.checkpoint import Checkpoint, CtcHead, Prediction

__all__ = ["Checkpoint", "CtcHead", "Prediction"]
