"""A comparison that is done, for all tests of it."""

import pytest
from small_comparison import recipe, write_data, write_encoders

from benchmarks.low_resource import run


@pytest.fixture(scope="session")
def comparison_data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def comparison_encoders(tmp_path_factory):
    return write_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def comparison_done(tmp_path_factory, comparison_data, comparison_encoders):
    """A comparison of two encoders and scratch with two seeds: its recipe, its folder, and what was said."""
    folder, lines = tmp_path_factory.mktemp("done"), []
    found = recipe(folder, comparison_encoders, "baseline=frozen")
    run(found, comparison_data, folder / "out", "hubertkit bench", lines.append)
    return found, folder / "out", lines
