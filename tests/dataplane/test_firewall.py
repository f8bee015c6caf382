"""Security groups and port security on a real Open vSwitch, with real packets."""

from __future__ import annotations

import re
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chassis import TestChassis, chassis, inside, reaches
from frames import Flood, FloodCounter, Listener, Sender, ethernet, tcp, udp
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

FTP = """\
import socket
listening = socket.create_server(("", 21))
print("ready", flush=True)
control, _ = listening.accept()
*_, numbers = control.recv(99).decode().split()
*address, high, low = numbers.split(",")
data = socket.socket()
data.settimeout(2)
try:
    data.connect((".".join(address), 256 * int(high) + int(low)))
    control.sendall(b"150 here it comes\\r\\n")
except TimeoutError:
    control.sendall(b"425 can't open data connection\\r\\n")
"""
FETCH = """\
import socket, sys
listening = socket.create_server(("", 2121))
control = socket.create_connection((sys.argv[1], 21), timeout=5)
control.sendall(f"PORT {sys.argv[2].replace('.', ',')},8,73\\r\\n".encode())
print(control.recv(99).decode().strip(), flush=True)
sys.stdin.read()
"""
"""Port 2121 is 8,73 (RFC 959 §4.1.2)."""


def member(port: LogicalPort) -> GroupMember:
    (it,) = worlds.members(port)
    return it


async def ready(here: TestChassis) -> dict[str, str]:
    await here.now(NET, OUT, G, A, B, C, member(A), member(C))
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


def said(process: Any) -> str:
    """What it says next, within a while."""
    return process.stdout.readline() if select.select([process.stdout], [], [], 15)[0] else "nothing"


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
        await here.now(b, member(b))
        assert reaches(vms["b"], C.ips[0])
        await here.now(gone=(member(b),))
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


UDP = SecurityRule("ingress", 4, 17, 6000, 6000)
"""What A may get; it may send nothing by itself."""

ASK = udp(B.ips[0], A.ips[0], 5000, 6000, b"question")
ANSWERS = ethernet(A.mac, B.mac, 0x0800, udp(A.ips[0], B.ips[0], 6000, 5000, b"flood"))


async def test_who_only_listens_is_cut_off_too_and_what_else_it_hears_stays(vswitch: VSwitch) -> None:
    """Of a stream that goes one way only, the packets are answers all the time."""
    kept = SecurityRule("ingress", 4, 17, 6001, 6001)
    both = replace(G, rules=(UDP, kept), revision=2)
    other = ethernet(A.mac, B.mac, 0x0800, udp(A.ips[0], B.ips[0], 6001, 5000, b"flood"))
    async with chassis(vswitch) as here:
        vms = await ready(here)
        await here.now(both)
        with Sender(vms["b"]) as asker, Flood(vms["a"]) as stream, FloodCounter(vms["b"]) as counter:
            stream.send(ANSWERS)
            stream.more()
            assert counter.heard == 0, "nobody has asked"
            asker.send(ethernet(B.mac, A.mac, 0x0800, ASK))
            asker.send(ethernet(B.mac, A.mac, 0x0800, udp(B.ips[0], A.ips[0], 5000, 6001)))
            stream.more()
            assert counter.heard > 0
            await here.now(replace(both, rules=(kept,), revision=3))
            here.vswitch.appctl("revalidator/wait")
            before = counter.heard
            stream.more()
            assert counter.heard == before, "cut, though the asker has said no more"
            stream.send(other)
            stream.more()
            assert counter.heard > before
            await here.now(replace(both, revision=4))
            here.vswitch.appctl("revalidator/wait")
            stream.send(ANSWERS)
            stream.more()
            before = counter.heard
            stream.more()
            assert counter.heard > before, "what is allowed again goes on"


RECEIVE = """\
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 6000)); print("ready", flush=True)
while True:
    data, who = s.recvfrom(9000); s.sendto(data[:9], who); print(len(data), flush=True)
"""
SAY = """\
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1.5)
s.connect((sys.argv[1], int(sys.argv[2]))); s.send(bytes(int(sys.argv[3])))
try: print(len(s.recv(9000)))
except TimeoutError: print("silence")
except ConnectionRefusedError: print("refused")
"""


def says(vm: str, port: int, size: int) -> str:
    return inside(vm, "python3", "-c", SAY, A.ips[0], str(port), str(size)).stdout.strip()


async def test_fragments_and_errors_belong_to_what_is_allowed(vswitch: VSwitch) -> None:
    async with chassis(vswitch) as here:
        vms = await ready(here)
        await here.now(replace(G, rules=(replace(UDP, last=6001),), revision=2))
        with running(vms["a"], RECEIVE) as receiver:
            assert said(receiver) == "ready\n"
            assert says(vms["b"], 6000, 4000) == "9"
            assert said(receiver) == "4000\n"
            assert says(vms["b"], 6001, 10) == "refused", "the error about it comes back"
            assert says(vms["b"], 6002, 10) == "silence"
            assert says(vms["b"], 6002, 4000) == "silence"
            await here.now(replace(G, rules=(UDP,), stateful=False, revision=3))
            here.vswitch.appctl("revalidator/wait")
            assert says(vms["b"], 6000, 10) == "silence", "without states an answer needs a rule of its own"
            assert said(receiver) == "10\n", "though the question came"
            assert says(vms["b"], 6000, 4000) == "silence", "nobody knows the port of a later fragment"
            await here.now(replace(G, rules=(*EGRESS, replace(UDP, first=None, last=None)), stateful=False, revision=4))
            here.vswitch.appctl("revalidator/wait")
            assert says(vms["b"], 6000, 4000) == "9", "unless none is asked for"


async def test_what_ftp_announces_is_let_in(vswitch: VSwitch) -> None:
    """Active FTP: the server connects to a port that its client has named, and which no rule allows."""
    ftp = SecurityRule("ingress", 4, 6, 21, 21)
    async with chassis(vswitch) as here:
        vms = await ready(here)
        await here.now(replace(G, rules=(*EGRESS, ftp), revision=2))
        with running(vms["c"], FTP) as server:
            assert said(server) == "ready\n"
            with running(vms["b"], FETCH, C.ips[0], B.ips[0]) as client:
                assert said(client) == "150 here it comes\n"
                assert not connects(vms["a"], B.ips[0], 2121), "it was announced to the server alone"


class Turns:
    """Who asks and who answers, one after the other, as kernels repeat a question that isn't answered."""

    def __init__(self, *turns: tuple[Sender, bytes]) -> None:
        self._turns = turns
        self._left = 40

    def send(self, *_: bytes) -> None:
        self._left -= 1
        assert self._left, "the answer doesn't come through"
        for sender, frame in self._turns:
            sender.send(frame)


async def test_a_straggler_of_the_connection_before_does_not_lock_the_next_one_out(vswitch: VSwitch) -> None:
    """The FIN of a server whose client has reset the connection, and begun another from the same port."""
    a, b = (replace(port, security_groups=("open",)) for port in (A, B))

    def says(flags: int, seq: int, *, port: int = 5555) -> bytes:
        return ethernet(A.mac, B.mac, 0x0800, tcp(A.ips[0], B.ips[0], port, 7, flags, seq=seq))

    def replies(flags: int, seq: int, to: int) -> bytes:
        return ethernet(B.mac, A.mac, 0x0800, tcp(B.ips[0], A.ips[0], 7, 5555, flags, seq=seq, ack=to))

    fin, syn, rst, ack = 1, 2, 4, 16
    question, answer = says(syn, 1000), replies(syn | ack, 900_000, 1001)
    async with chassis(vswitch) as here:
        await here.now(NET, a, b)
        vms = [await here.vm(port) for port in (a, b)]  # without addresses: their kernels take no part
        with Sender(vms[0]) as asks, Sender(vms[1]) as serves, Listener(vms[0]) as client, Listener(vms[1]) as server:
            list(server.until(question, asks))
            list(client.until(replies(fin | ack, 5000, 500), serves))
            list(client.until(answer, Turns((asks, question), (serves, answer))))  # type: ignore[arg-type]
            serves.send(replies(syn | ack, 3_000_000_000, 77))
            list(client.until(replies(ack, 900_001, 1001), serves))
            lonely = says(rst, 1000, port=5556)
            list(server.until(lonely, asks))
        known = vswitch.appctl("dpctl/dump-conntrack")
        assert set(re.findall(r"orig=\(src=([0-9.]+)", known)) == {A.ips[0]}, "no forged answer ends what was answered"
        assert "sport=5555" in known
        assert "sport=5556" not in known, "nothing begins with a reset"
