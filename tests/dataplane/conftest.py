"""Real Open vSwitch for tests: one switch of its own, in its own network namespace, for each test that asks."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from underlay import bridged

from dragonflow.lab.vswitch import VSwitch

_serial = itertools.count()


@pytest.fixture
def netns() -> Iterator[str]:
    """A fresh network namespace with its loopback up."""
    if os.geteuid() != 0 or shutil.which("ovs-vswitchd") is None:
        pytest.skip("needs root and Open vSwitch")
    name = f"dft-{os.getpid()}-{next(_serial)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def vswitch(netns: str) -> Iterator[VSwitch]:
    """A running switch without bridges, in the namespace of ``netns``. Its directory is short: sockets lie in it."""
    switch = VSwitch(Path(tempfile.mkdtemp(prefix="dft-")), netns)
    try:
        switch.start()
        yield switch
    finally:
        switch.remove()


@pytest.fixture
def fabric() -> Iterator[str]:
    """A namespace with a bridge between hosts, see ``underlay``."""
    if os.geteuid() != 0 or shutil.which("ovs-vswitchd") is None:
        pytest.skip("needs root and Open vSwitch")
    with bridged() as netns:
        yield netns
