"""Features: what teachers cluster and what the filterbank front end sees. Source of frames: `features.source`."""

from upstream.features.mfcc import mfcc
from upstream.model.fbank import log_mel

__all__ = ["log_mel", "mfcc"]
