"""Features: what teachers cluster and what the filterbank front end sees. Source of frames: `features.source`."""

from upstream.features.fbank import log_mel
from upstream.features.mfcc import mfcc

__all__ = ["log_mel", "mfcc"]
