"""A comparison that is done, for all tests of it."""

import pytest
from small_comparison import recipe, write_data, write_encoders

from benchmarks.low_resource import run


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    return write_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def done(tmp_path_factory, data, encoders):
    """A comparison of two encoders and scratch with two seeds: its recipe, its folder, and what was said."""
    folder, lines = tmp_path_factory.mktemp("done"), []
    found = recipe(folder, encoders, "baseline=frozen")
    run(found, data, folder / "out", "hubertkit bench", lines.append)
    return found, folder / "out", lines
