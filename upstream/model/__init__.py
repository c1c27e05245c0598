"""Encoders: their configuration, their forward pass, masked prediction, and how they are kept on disk."""

from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder, EncoderOutput
from upstream.model.formats.tensors import read_tensors
from upstream.model.frontend import prepared, standardise
from upstream.model.loading import load_encoder, load_prediction
from upstream.model.masked_prediction import MaskedPrediction, PredictionLoss, perplexity
from upstream.model.masking import SpanMask, batch_masks, span_mask
from upstream.model.saving import encoder_hash, read_description, read_encoder, save_encoder

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
    "load_prediction",
    "perplexity",
    "prepared",
    "read_description",
    "read_encoder",
    "read_tensors",
    "save_encoder",
    "span_mask",
    "standardise",
]
