"""The matrix sees what is lost and when; what it says of an undisturbed lab, the fault tests rely on."""

from __future__ import annotations

import time

from dragonflow.lab import Lab
from dragonflow.lab.matrix import PATIENCE, Matrix, covering
from dragonflow.lab.system import wait_until

from .conftest import Cloud


def test_it_tells_nothing_of_an_undisturbed_lab_and_the_time_of_an_interruption(lab: Lab, cloud: Cloud) -> None:
    network = cloud.network("10.1.0.0/24", "fd01::/64")
    ports = [cloud.port(network, host) for host in ("host1", "host2", "host1")]
    vms = [cloud.plug(port) for port in ports]
    wait_until(lambda: cloud.active(*ports), "all ACTIVE", 20)
    pairs = covering(vms)
    assert {(source.host, target.host) for source, target, _ in pairs} >= {("host1", "host1"), ("host1", "host2")}
    with Matrix(pairs) as matrix:
        quiet = time.monotonic()
        time.sleep(1)
        assert matrix.lost(quiet) == []
        assert matrix.sent(quiet) > len(pairs) * 50
        assert min(matrix.answered().values()) > 50
        assert len(matrix.answered()) == len(pairs)
        down = time.monotonic()
        assert lab.exec(ports[1]["id"], "ip", "link", "set", "eth0", "down").returncode == 0
        time.sleep(0.5)
        assert lab.exec(ports[1]["id"], "ip", "link", "set", "eth0", "up").returncode == 0
        up = time.monotonic()
        lost = [loss for loss in matrix.lost(quiet) if ":" not in loss.pair.address]  # IPv6 went with the link
    assert {loss.pair.target.partition("/")[0] for loss in lost} == {"host2"}
    for loss in lost:
        assert down - 0.1 < loss.first < loss.last < up + 0.5
        assert loss.seconds > 0.4
        assert loss.probes > 0.4 / 0.05
    assert matrix.lost(up + 0.5 + PATIENCE) == []
