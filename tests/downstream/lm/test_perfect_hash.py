import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from downstream.lm.perfect_hash import build, slots_for, slots_of

keys_of_any_kind = st.lists(st.integers(0, 2**62), unique=True, max_size=300) | st.integers(0, 3000).map(
    lambda n: list(range(n)))


@given(keys_of_any_kind)
def test_every_key_has_a_slot_of_its_own_and_is_found_there(keys):
    seeds, slots = build(np.array(keys, np.int64))
    size = slots_for(len(keys))
    assert len(set(slots.tolist())) == len(keys)
    assert all(0 <= slot < size for slot in slots.tolist())
    found = slots_of(torch.tensor(keys, dtype=torch.int64), torch.from_numpy(seeds), size)
    assert found.tolist() == slots.tolist()


@given(keys_of_any_kind, st.lists(st.integers(0, 2**62), max_size=50))
def test_other_keys_go_to_slots_that_are_there(keys, others):
    seeds, _ = build(np.array(keys, np.int64))
    size = slots_for(len(keys))
    asked = torch.tensor([others, others], dtype=torch.int64)
    found = slots_of(asked, torch.from_numpy(seeds), size)
    assert found.shape == asked.shape
    assert all(0 <= slot < size for slot in found.flatten().tolist())


@pytest.mark.parametrize("step", [1, 2**20, 69_005])
def test_regular_keys_are_hashed_within_little_room(step):
    keys = np.arange(50_000) * step
    seeds, slots = build(keys)
    assert len(np.unique(slots)) == len(keys)
    assert slots.max() < slots_for(len(keys)) <= 1.26 * len(keys)
    assert len(seeds) <= len(keys)
