"""Encoders: their configuration, their forward pass, masked prediction, and how they are kept on disk."""

from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder, EncoderOutput
from upstream.model.frontend import prepared, standardise
from upstream.model.masked_prediction import MaskedPrediction, PredictionLoss, perplexity
from upstream.model.masking import SpanMask, batch_masks, span_mask
from upstream.model.saving import encoder_hash, load_encoder, read_description, read_tensors, save_encoder

__all__ = [
    "Encoder",
    "EncoderConfig",
    "EncoderOutput",
    "MaskedPrediction",
    "PredictionLoss",
    "SpanMask",
    "batch_masks",
    "encoder_hash",
    "load_encoder",
    "perplexity",
    "prepared",
    "read_description",
    "read_tensors",
    "save_encoder",
    "span_mask",
    "standardise",
]
