"""A lab of one store for all tests of a file, with ports between which the matrix runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from dragonflow.lab import Lab
from dragonflow.lab.chaos import Ground, repairs

LABS = {
    "etcd": {"store": "etcd", "bus": "zmq", "disk": 24},
    "redis": {"store": "redis", "bus": "redis", "disk": 48},
}
PROGRAMS = {"etcd": "etcd", "redis": "redis-server"}


@pytest.fixture(scope="module")
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """Two Neutron servers, and the DF DB that the file's ``STORE`` names; all faults of a file are suffered by one lab."""
    store = request.module.STORE
    needed = ("ovs-vswitchd", "mariadbd", "faketime", PROGRAMS[store])
    if os.geteuid() != 0 or not all(map(shutil.which, needed)):
        pytest.skip(f"needs root and {', '.join(needed)}: make setup")
    lab = Lab.up(f"c{os.getpid()}", neutron_servers=2, lossy=True, progress=print, **LABS[store])
    try:
        made = Ground(lab)
        yield made
        made.close()
        assert repairs(made) == []
    finally:
        lab.down()
