"""Recordings: which there are (manifest), their waveforms (reading), and how corpora lie on disk."""

from upstream.audio.caching import AudioCache
from upstream.audio.checking import check
from upstream.audio.corpora.folder import import_folder
from upstream.audio.corpora.librispeech import import_librispeech
from upstream.audio.corpora.probing import Problem
from upstream.audio.manifest import Manifest, Utterance
from upstream.audio.reading import read

__all__ = ["AudioCache", "Manifest", "Problem", "Utterance", "check", "import_folder", "import_librispeech", "read"]
