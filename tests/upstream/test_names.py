"""What `upstream` itself offers: every name is there, and asking for one file of the package costs nothing else."""

import subprocess
import sys

import pytest

import upstream


@pytest.mark.parametrize("name", upstream.__all__)
def test_every_name_is_found(name):
    assert getattr(upstream, name).__name__ == name
    assert name in dir(upstream)


def test_another_name_is_an_error_of_python():
    with pytest.raises(AttributeError, match="module 'upstream' has no attribute 'encoder_of'"):
        _ = upstream.encoder_of
    with pytest.raises(ImportError):
        exec("from upstream import encoder_of")


def test_an_error_is_imported_without_torch():
    code = "import sys, upstream.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
