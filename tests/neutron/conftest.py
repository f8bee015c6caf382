"""What the tests of Neutron's side share. Neutron's own test base keeps process-wide state, so xdist runs them per process."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from dragonflow.neutron.dfdb import DfDb


@pytest.fixture(params=["memory", "sqlite"])
def dfdb(request: pytest.FixtureRequest, tmp_path) -> Iterator[DfDb]:
    """A DF DB of its own, of either kind."""
    name = uuid.uuid4().hex
    url = f"memory://{name}" if request.param == "memory" else f"sqlite://{tmp_path}/dfdb.sqlite"
    opened = DfDb(url, f"memory://{name}")
    yield opened
    opened.close()
