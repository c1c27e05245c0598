"""From recordings to a pretrained encoder."""

from upstream.model import Encoder, EncoderConfig, EncoderOutput, load_encoder

__all__ = ["Encoder", "EncoderConfig", "EncoderOutput", "load_encoder"]
