"""Security groups and port security on a real Open vSwitch, with real packets."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chassis import TestChassis, chassis, inside, reaches
from msgspec.structs import replace

from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import GroupMember, LogicalPort, SecurityGroup, SecurityRule
from dragonflow.testing import worlds

NET = worlds.network()
A, B, C = (worlds.port(name, key, security_groups=("g",)) for name, key in (("a", 11), ("b", 12), ("c", 13)))
B = replace(B, security_groups=("out",))
EGRESS = tuple(SecurityRule("egress", version) for version in (4, 6))
OUT = SecurityGroup(id="out", rules=EGRESS, revision=1)
ICMP, WEB = SecurityRule("ingress", 4, 1, remote_group="g"), SecurityRule("ingress", 4, 6, 8080, 8083)
G = SecurityGroup(id="g", rules=(*EGRESS, ICMP, WEB), revision=1)

SERVE = """\
import socket
s = socket.create_server(("", 8080)); print("ready", flush=True); c, _ = s.accept()
while data := c.recv(9): c.sendall(data)
"""
TALK = """\
import socket, sys
c = socket.create_connection((sys.argv[1], 8080), timeout=5); c.settimeout(1.5)
for line in sys.stdin:
    try:
        c.sendall(line[:1].encode())
        while line[0] not in c.recv(9).decode(): pass
        print("answered", flush=True)
    except TimeoutError:
        print("silence", flush=True)
"""


def member(port: LogicalPort, group: str) -> GroupMember:
    return GroupMember(id=f"{group}/{port.id}", group=group, port=port.id, addresses=port.ips)


async def ready(here: TestChassis) -> dict[str, str]:
    await here.now(NET, OUT, G, A, B, C, member(A, "g"), member(C, "g"))
    return {
        port.id: await here.vm(port, *(f"{ip}/24" for ip in port.ips[:1]), f"{port.ips[1]}/64") for port in (A, B, C)
    }


@contextmanager
def running(vm: str, code: str, *arguments: str) -> Iterator[Any]:
    command = ["ip", "netns", "exec", vm, "python3", "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def connects(vm: str, address: str, port: int) -> bool:
    """Whether anything answers, be it with a refusal."""
    code = "import socket, sys\ntry: socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1.5)\n"
    code += "except ConnectionRefusedError: pass\nexcept TimeoutError: sys.exit(1)\n"
    return inside(vm, "python3", "-c", code, address, str(port)).returncode == 0


async def test_rules_let_in_what_they_name_and_no_more(vswitch: VSwitch) -> None:
    async with chassis(vswitch) as here:
        vms = await ready(here)
        assert reaches(vms["a"], C.ips[0]), "a member of the remote group"
        assert not reaches(vms["b"], C.ips[0]), "not a member"
        assert not reaches(vms["a"], C.ips[1]), "no rule for IPv6"
        for port in (8080, 8081, 8083):
            assert connects(vms["b"], A.ips[0], port), port
        for port in (8079, 8084):
            assert not connects(vms["b"], A.ips[0], port), port
        assert not reaches(vms["a"], B.ips[0]), "nothing may come in there"
        b = replace(B, security_groups=("g",), revision=2)
        await here.now(b, member(b, "g"))
        assert reaches(vms["b"], C.ips[0])
        await here.now(gone=(member(b, "g"),))
        here.vswitch.appctl("revalidator/wait")
        assert not reaches(vms["b"], C.ips[0]), "its share in the group is gone"


async def test_a_rule_that_goes_cuts_what_it_allowed_and_nothing_else(vswitch: VSwitch) -> None:
    async with chassis(vswitch) as here:
        vms = await ready(here)
        with running(vms["a"], SERVE) as server:
            assert server.stdout.readline() == "ready\n"
            with running(vms["b"], TALK, A.ips[0]) as client:
                words = iter("abcdefg")

                def talk() -> str:
                    client.stdin.write(next(words) + "\n")
                    client.stdin.flush()
                    return client.stdout.readline().strip()

                assert talk() == "answered"
                await here.now(replace(G, rules=(*EGRESS, ICMP), revision=2))
                here.vswitch.appctl("revalidator/wait")
                assert talk() == "silence"
                assert reaches(vms["a"], C.ips[0])
                await here.now(replace(G, revision=3))
                here.vswitch.appctl("revalidator/wait")
                assert talk() == "answered", "the same connection, for what was lost is sent again"
                await here.now(replace(OUT, rules=(), revision=2))
                here.vswitch.appctl("revalidator/wait")
                assert talk() == "silence"


async def test_nobody_sends_under_an_address_that_is_not_its_own(vswitch: VSwitch) -> None:
    free = SecurityGroup(id="g", rules=(*EGRESS, SecurityRule("ingress", 4), SecurityRule("ingress", 6)), revision=2)
    async with chassis(vswitch) as here:
        vms = await ready(here)
        await here.now(free)
        assert reaches(vms["b"], A.ips[0])
        assert reaches(vms["b"], A.ips[1])
        for address, family in (("10.0.0.99/24", "-4"), ("fd00::99/64", "-6")):
            inside(vms["b"], "ip", family, "address", "add", address, "dev", "eth0", "nodad")
            target = A.ips[family == "-6"]
            assert not reaches(vms["b"], target, "-I", address.partition("/")[0]), address
        inside(vms["b"], "ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
        assert not reaches(vms["b"], A.ips[0])
        inside(vms["b"], "ip", "link", "set", "eth0", "address", B.mac)
        await here.now(replace(B, port_security=False, revision=3))
        here.vswitch.appctl("revalidator/wait")
        assert reaches(vms["b"], A.ips[0])
