"""Recordings: which there are (manifest), their waveforms (reading), and how corpora lie on disk."""

from upstream.audio.corpora.folder import import_folder
from upstream.audio.corpora.librispeech import import_librispeech
from upstream.audio.manifest import Manifest, Utterance
from upstream.audio.reading import AudioCache, read

__all__ = ["AudioCache", "Manifest", "Utterance", "import_folder", "import_librispeech", "read"]
