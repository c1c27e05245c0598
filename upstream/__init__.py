"""From recordings to a pretrained encoder. `docs/python.md` shows what programs use of it.

The names below are imported when they are first asked for: whoever wants one file of this package does not wait for
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upstream.audio.corpora.single import read_audio
    from upstream.audio.manifest import Manifest
    from upstream.features.source import LayerSource
    from upstream.features.waveform import frames_of
    from upstream.model.config import EncoderConfig
    from upstream.model.encoder import Encoder, EncoderOutput
    from upstream.model.loading import load_encoder
    from upstream.teacher.labelling import Labeller

_HOME = {
    "Encoder": "model.encoder",
    "EncoderConfig": "model.config",
    "EncoderOutput": "model.encoder",
    "Labeller": "teacher.labelling",
    "LayerSource": "features.source",
    "Manifest": "audio.manifest",
    "frames_of": "features.waveform",
    "load_encoder": "model.loading",
    "read_audio": "audio.corpora.single",
}

__all__ = ["Encoder", "EncoderConfig", "EncoderOutput", "Labeller", "LayerSource", "Manifest", "frames_of",
           "load_encoder", "read_audio"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
