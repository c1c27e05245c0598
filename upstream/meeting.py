"""Where the ranks of a job that `torchrun` has started find each other, this time and not the last.

torchrun keeps one store for all restarts of a job (torch 2.11, `DynamicRendezvousHandler`), with the addresses of ranks
that have died still in it. Whoever comes first would connect to these, and the restart that was to save the job ends
it.
"""

from __future__ import annotations

import os
import secrets
import time
from datetime import timedelta

import torch.distributed as dist

LOOK_SECONDS = 0.02  # between two looks of the first rank at who is there


def torchruns_store(rank: int, count: int, patience: timedelta) -> dist.Store | None:
    """A store for these ranks alone; None where no torchrun has one, and the first rank makes it.

    Raises:
        RuntimeError: torchrun has ended, or somebody has not come.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, count, False, patience)
    return dist.PrefixStore(meeting_place(store, rank, count), store)


def meeting_place(store: dist.Store, rank: int, count: int) -> str:
    """A name that all ranks of this start get, and nobody of an earlier one.

    Each says hello under a name of its own, which no one has used before, and the first rank answers to it. It answers
    to whatever it finds until all have come: what the dead have left is answered in vain.
    """
    if rank:
        name = secrets.token_hex(8)
        store.set(f"hello/{rank}", name)
        place = store.get(f"welcome/{name}").decode()
        store.set(f"{place}/{rank}", "")
        return place
    place, answered, missing = f"start {secrets.token_hex(8)}", set(), list(range(1, count))
    while missing := [other for other in missing if not store.check([f"{place}/{other}"])]:
        for key in (f"hello/{other}" for other in missing):
            name = store.get(key).decode() if store.check([key]) else ""
            if name and name not in answered:
                store.set(f"welcome/{name}", place)
                answered.add(name)
        time.sleep(LOOK_SECONDS)
    return place
