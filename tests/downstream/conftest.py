"""A self-training that is done, for all tests of it."""

import pytest
from small_selftraining import quiet, recipe, write_corpus

from downstream.selftrain import selftrain


@pytest.fixture(scope="session")
def selftrain_corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def selftrain_run(selftrain_corpus):
    """Its folder, and what it gave."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("downstream.decode.pool.available_cores", lambda: 1)
        return selftrain_corpus / "run", selftrain(recipe(selftrain_corpus), selftrain_corpus / "run", quiet)
