"""The metadata service on a real Open vSwitch: guests' own TCP, the real proxy, and Nova's stand-in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from chassis import TestChassis, chassis, inside, neighbour

from dragonflow.apps.metadata import Metadata
from dragonflow.controller.instances import instance_of
from dragonflow.controller.view import Me, View
from dragonflow.lab import nova_metadata, system
from dragonflow.lab.vswitch import VSwitch
from dragonflow.metadata.address import INTERFACE, MAC
from dragonflow.metadata.whose import Asker, Whose
from dragonflow.model import FixedIP, LogicalPort, OvsPort
from dragonflow.observe.control import ControlServer
from dragonflow.testing import worlds

ME = Me(chassis="here", tunnel_ip="192.0.2.1", metadata=True)
IPV4, IPV6 = "http://169.254.169.254/", "http://[fe80::a9fe:a9fe%25eth0]/"
NET, OTHER = worlds.network(), worlds.network("other", 2)
A = worlds.port(
    "a", 11, device_id="instance-a", project="p", fixed_ips=(FixedIP("v4", "10.0.0.11"), FixedIP("v4", "10.0.0.12"))
)
B = worlds.port("b", 12, net="other", device_id="instance-b", project="q", fixed_ips=(FixedIP("w4", "10.0.0.11"),))
SECRET = "of the test"


@pytest.fixture
async def here(vswitch: VSwitch, tmp_path: Path) -> AsyncIterator[TestChassis]:
    """A chassis with a proxy, which asks this test who is who, and Nova on the host's loopback."""
    host = vswitch.netns
    assert host is not None
    config, control = tmp_path / "dragonflow.conf", tmp_path / "control.sock"
    config.write_text(f"[df]\ncontrol_socket = {control}\nmetadata_proxy_shared_secret = {SECRET}\n")
    nova = [sys.executable, nova_metadata.__file__, "127.0.0.1", str(nova_metadata.PORT), SECRET]
    proxy = [str(Path(sys.executable).with_name("dragonflow")), "metadata-proxy", "--config-file", str(config)]
    processes = [subprocess.Popen([*system.inside(host), *command]) for command in (nova, proxy)]
    async with chassis(vswitch, ME) as it:

        def whose(asker: Any) -> Whose:
            return Whose(instance_of(msgspec.convert(asker, Asker), View(it.replica, it.engine.places, ME)), True)

        serving = asyncio.create_task(ControlServer(str(control), {"metadata": whose}).run())
        try:
            await it.now(NET, OTHER, A, B)
            await it.until(lambda: (port := it.replica.get(OvsPort, INTERFACE)) is not None and port.ofport is not None)
            async with asyncio.timeout(20):
                while INTERFACE not in system.run(["ss", "-Htln"], netns=host):
                    await asyncio.sleep(0.05)
            yield it
        finally:
            for process in processes:
                process.terminate()
                process.wait()
            serving.cancel()
            await asyncio.wait([serving])


async def guest(here: TestChassis, port: LogicalPort) -> str:
    name = await here.vm(port, *(f"{ip}/24" for ip in port.ips))
    inside(name, "ip", "route", "add", "169.254.169.254", "dev", "eth0")
    async with asyncio.timeout(10):
        while "tentative" in inside(name, "ip", "address", "show", "dev", "eth0").stdout:
            await asyncio.sleep(0.05)
    return name


async def ask(vm: str, url: str, *options: str) -> dict[str, Any]:
    command = ("curl", "-sSg", "--max-time", "5", *options, url)
    done = await asyncio.to_thread(inside, vm, *command)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


async def test_guests_with_the_same_address_are_told_apart_by_their_ports(here: TestChassis) -> None:
    a, b = await guest(here, A), await guest(here, B)
    for vm, port in ((a, A), (b, B)):
        for url in (IPV4, IPV6):
            said = await ask(vm, url)
            assert (said["instance"], said["project"], said["address"]) == (port.device_id, port.project, "10.0.0.11")
        assert MAC in neighbour(vm, "169.254.169.254")
        assert MAC in neighbour(vm, "fe80::a9fe:a9fe")
    assert (await ask(a, IPV4, "--interface", "10.0.0.12"))["address"] == "10.0.0.12"
    both = [ask(vm, IPV4) for _ in range(10) for vm in (a, b)]
    assert [said["instance"] for said in await asyncio.gather(*both)] == ["instance-a", "instance-b"] * 10
    inside(a, "ip", "address", "add", "10.0.0.99/24", "dev", "eth0")
    stolen = await asyncio.to_thread(inside, a, "curl", "-sS", "--max-time", "1", "--interface", "10.0.0.99", IPV4)
    assert stolen.returncode != 0, "not an address of its port's"


HOG = """
import socket, sys, time
held = []
while True:
    try:
        held.append(socket.create_connection(("169.254.169.254", 80), 0.2))
    except OSError:
        time.sleep(0.001)
"""


async def test_a_guest_that_opens_all_it_can_keeps_no_other_from_its_metadata(here: TestChassis) -> None:
    a, b = await guest(here, A), await guest(here, B)
    with contextlib.ExitStack() as stack:
        hog = subprocess.Popen(["ip", "netns", "exec", a, sys.executable, "-c", HOG])
        stack.callback(hog.wait)
        stack.callback(hog.kill)
        async with asyncio.timeout(20):
            while here.hits(Metadata.requests.number) < 200:
                await asyncio.sleep(0.05)
        for _ in range(5):
            assert (await ask(b, IPV4))["instance"] == "instance-b"
