"""Security groups and port security between guests of three hosts and two networks, while rules, members and hosts change."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from dragonflow.lab import Lab, Vm, system
from dragonflow.lab.matrix import Matrix
from dragonflow.lab.system import wait_until
from dragonflow.lab.uplink import entered

from .conftest import Cloud
from .test_faults import in_sync
from .test_packets import ips
from .test_trunks import Guest, ip

pytestmark = pytest.mark.usefixtures("audited")

WEB, OTHER = 80, 81
SOON = 20.0
"""Seconds for what takes less than one on an idle machine; of TCP, whose retransmissions come later each time, some."""

REFUSED = 1.2
"""Seconds after which a connection counts as refused: its first packet was sent twice by then."""


class Talk:
    """A TCP connection from one guest to another, on which whatever is said is said back."""

    def __init__(self, netns: str, server: socket.socket, address: str, port: int) -> None:
        self._near = _socket(netns, address)
        self._near.settimeout(SOON)
        self._near.connect((address, port))
        self._far, _ = server.accept()
        for end in (self._near, self._far):
            end.setblocking(False)
        self._unheard = 0

    def goes_on(self, patience: float = REFUSED) -> bool:
        """Whether all that was ever said is answered in time."""
        self._near.send(b".")
        self._unheard += 1
        with selectors.DefaultSelector() as selector:
            for end in (self._near, self._far):
                selector.register(end, selectors.EVENT_READ)
            while self._unheard and (ready := selector.select(patience)):
                for key, _ in ready:
                    said = key.fileobj.recv(1024)  # type: ignore[union-attr]
                    if key.fileobj is self._far:
                        self._far.send(said)
                    else:
                        self._unheard -= len(said)
        return not self._unheard

    def close(self) -> None:
        """End it without waiting for anybody."""
        self._near.close()
        self._far.close()


def _socket(netns: str, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with entered(str(system.NETNS_DIR / netns)):
        return socket.socket(family, socket.SOCK_STREAM)


@contextlib.contextmanager
def listening(netns: str, *ports: int) -> Iterator[dict[int, socket.socket]]:
    """Servers in a guest, for both IP versions."""
    with contextlib.ExitStack() as stack:
        found = {}
        for port in ports:
            found[port] = stack.enter_context(_socket(netns, "::"))
            found[port].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found[port].bind(("::", port))
            found[port].listen(64)
        yield found


def let_in(attempts: Mapping[str, tuple[str, str, int]]) -> set[str]:
    """Which of these TCP connections (namespace, address, port) come about; all are tried at once."""
    with contextlib.ExitStack() as stack:
        sockets = {}
        for name, (netns, address, port) in attempts.items():
            made = stack.enter_context(_socket(netns, address))
            made.setblocking(False)
            made.connect_ex((address, port))
            sockets[made] = name
        selector = stack.enter_context(selectors.DefaultSelector())
        for made in sockets:
            selector.register(made, selectors.EVENT_WRITE)
        found = set()
        while ready := selector.select(REFUSED):
            for key, _ in ready:
                selector.unregister(key.fileobj)
                if not key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # type: ignore[union-attr]
                    found.add(sockets[key.fileobj])  # type: ignore[index]
        return found


def all_go_on(talks: Mapping[str, Talk]) -> bool:
    return all(talk.goes_on() for talk in talks.values())


def none_goes_on(talks: Mapping[str, Talk]) -> bool:
    return not any(talk.goes_on(0.3) for talk in talks.values())


def test_rules_hold_wherever_members_are_and_cut_what_they_alone_allowed(
    lab: Lab, cloud: Cloud, neutron: httpx.Client, ping: Callable[..., bool]
) -> None:
    near, far = (
        cloud.network("10.1.0.0/24", "fd01::/64", gateways=True),
        cloud.network("10.2.0.0/24", "fd02::/64", gateways=True),
    )
    cloud.router(near, far)
    offices = cloud.address_group()
    clients, strangers, web = cloud.group(name="clients"), cloud.group(name="strangers"), cloud.group(name="web")
    members = {"protocol": "tcp", "port_range_min": WEB, "port_range_max": WEB, "remote_group_id": clients}
    rule = cloud.rule(web, **members)
    cloud.rule(web, **members, ethertype="IPv6")
    cloud.rule(web, protocol="icmp", remote_address_group_id=offices)
    server = cloud.port(near, "host1", security_groups=[web])
    ports = {
        "here": cloud.port(near, "host1", security_groups=[clients]),
        "there": cloud.port(near, "host2", security_groups=[clients]),
        "behind the router": cloud.port(far, "host3", security_groups=[clients]),
        "stranger": cloud.port(near, "host2", security_groups=[strangers]),
    }
    inside, vms = cloud.plug(server), {name: cloud.plug(port) for name, port in ports.items()}
    wait_until(lambda: cloud.active(server, *ports.values()), "all ACTIVE", SOON)
    v4, v6 = ips(server)

    def attempts() -> dict[str, tuple[str, str, int]]:
        every = {
            f"{name} {address} {port}": (vm.netns, address, port)
            for name, vm in vms.items()
            for address in (v4, v6)
            for port in (WEB, OTHER)
        }
        return every | {"out again": (inside.netns, ips(ports["there"])[0], WEB)}

    def right() -> bool:
        return let_in(attempts()) == {
            f"{name} {address} {WEB}" for name in vms if name != "stranger" for address in (v4, v6)
        }

    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(listening(inside.netns, WEB, OTHER))
        stack.enter_context(listening(vms["there"].netns, WEB))
        wait_until(right, "members alone to be let in, at the one port", SOON)
        by_v4, by_v6 = (_talks(stack, vms, servers[WEB], address) for address in (v4, v6))
        assert all_go_on(by_v4 | {f"{name} by v6": talk for name, talk in by_v6.items()})

        neutron.delete(f"/security-group-rules/{rule}")
        wait_until(lambda: none_goes_on(by_v4), "what the rule alone had allowed to be cut", SOON)
        assert all_go_on(by_v6), "what another allows is not"
        rule = cloud.rule(web, **members)
        wait_until(lambda: all_go_on(by_v4), "it to go on with the rule", SOON)

        # what changes while the controller is dead
        lab.process("controller-host1").kill()
        assert all_go_on(by_v4)
        neutron.delete(f"/security-group-rules/{rule}")
        lab.process("controller-host1").start()
        wait_until(lambda: in_sync(lab, "host1") and none_goes_on(by_v4), "it to be cut by the next controller", SOON)
        cloud.rule(web, **members)
        wait_until(lambda: all_go_on(by_v4), "it to go on with the rule", SOON)

        # a member that leaves, and addresses that come and go
        neutron.put(f"/ports/{ports['there']['id']}", json={"port": {"security_groups": [strangers]}})
        wait_until(lambda: not by_v4["there"].goes_on(0.3), "who is no member any more to be cut", SOON)
        assert by_v4["here"].goes_on()
        own = f"{ips(ports['here'])[0]}/32"
        _comes_and_goes(neutron, offices, own, lambda: ping(vms["here"], v4))

        # on another host it is the same server
        neutron.put(f"/ports/{ports['there']['id']}", json={"port": {"security_groups": [clients]}})
        wait_until(lambda: all_go_on(by_v4), "the member that is back", SOON)

    refused = Matrix([(vms["stranger"], inside, address) for address in (v4, v6)])
    refused.start(None)
    inside = lab.migrate(server["id"], "host2").vm
    with listening(inside.netns, WEB, OTHER):
        wait_until(right, "members alone to be let in there", SOON)
    refused.stop()
    assert refused.answered() == {}, "nor was anybody else for a moment"


def _comes_and_goes(neutron: httpx.Client, group: str, address: str, let_in: Callable[[], bool]) -> None:
    """An address of an address group."""
    assert not let_in()
    for change, wanted in (("add", True), ("remove", False)):
        neutron.put(f"/address-groups/{group}/{change}_addresses", json={"addresses": [address]})
        wait_until(lambda wanted=wanted: let_in() == wanted, f"{change} an address", SOON)  # type: ignore[misc]


def _talks(stack: contextlib.ExitStack, vms: Mapping[str, Vm], server: socket.socket, address: str) -> dict[str, Talk]:
    """Connections of all but the stranger."""
    found = {}
    while True:  # what was tried before waits to be accepted
        server.setblocking(False)
        try:
            server.accept()[0].close()
        except BlockingIOError:
            break
    server.settimeout(SOON)
    for name, vm in vms.items():
        if name != "stranger":
            found[name] = Talk(vm.netns, server, address, WEB)
            stack.callback(found[name].close)
    return found


def test_each_port_has_rules_of_its_own_or_none(lab: Lab, cloud: Cloud) -> None:
    """Stateless groups, a trunk's child, and ports without security, from which addresses may be forged."""
    near, far = cloud.network("10.1.0.0/24"), cloud.network("10.2.0.0/24")
    public, closed = cloud.public(), cloud.group()
    plain, open_plain = cloud.group(stateful=False), cloud.group({"protocol": "tcp"}, stateful=False)
    ports: dict[str, dict[str, Any]] = {
        "server": cloud.port(near, "host1", security_groups=[open_plain]),
        "stateful": cloud.port(near, "host2", security_groups=[closed]),
        "stateless": cloud.port(near, "host2", security_groups=[plain]),
        "free": cloud.port(near, "host2", port_security_enabled=False, security_groups=[]),
        "far": cloud.port(far, "host2", security_groups=[closed]),
    }
    parent, child = (
        cloud.port(near, "host3", security_groups=[public]),
        cloud.port(far, security_groups=[closed]),
    )
    subports = [{"port_id": child["id"], "segmentation_type": "vlan", "segmentation_id": 101}]
    cloud.trunk(port_id=parent["id"], sub_ports=subports)
    vms = {name: cloud.plug(port) for name, port in ports.items()}
    with contextlib.ExitStack() as stack:
        guest = Guest(lab.host("host3"), parent, child, 101)
        stack.callback(guest.remove)
        guest.plug()
        wait_until(lambda: cloud.active(*ports.values(), parent, child), "all ACTIVE", SOON)
        for netns in (vms["server"].netns, vms["free"].netns, *guest.of.values()):
            stack.enter_context(listening(netns, WEB))
        server, free = (ip(ports[name]) for name in ("server", "free"))
        attempts = {
            "stateful": (vms["stateful"].netns, server, WEB),
            "stateless": (vms["stateless"].netns, server, WEB),
            "free": (vms["free"].netns, server, WEB),
            "to the free": (vms["stateful"].netns, free, WEB),
            "to the parent": (vms["stateful"].netns, ip(parent), WEB),
            "to the child": (vms["far"].netns, ip(child), WEB),
        }
        without = {"stateful", "free", "to the free", "to the parent"}
        wait_until(lambda: let_in(attempts) == without, "who gets answers, or has a rule for them", SOON)
        cloud.rule(plain, protocol="tcp", remote_ip_prefix=f"{server}/32")
        cloud.rule(closed, protocol="tcp", remote_ip_prefix=f"{ip(ports['far'])}/32")
        wait_until(lambda: let_in(attempts) == set(attempts), "rules for answers, and for the child", SOON)

        before = _echoes(vms["free"])
        _forge(vms["stateful"], ports["free"], source="10.1.0.99")
        _forge(vms["stateful"], ports["free"], mac="02:00:00:00:00:99")
        _forge(vms["server"], ports["free"], source="10.1.0.99")
        _forge(vms["server"], ports["free"], source=server)  # its own: so the others' packets had their time
        wait_until(lambda: _echoes(vms["free"]) >= before + 3, "what may come in", SOON)
        assert _echoes(vms["free"]) == before + 3
        assert _echoes(vms["server"]) == 0
        _forge(vms["free"], parent, source="10.1.0.99")
        wait_until(lambda: _echoes_in(guest.of[None]) == 3, "what a port without security says of itself", SOON)


def _forge(vm: Vm, target: dict[str, Any], source: str | None = None, mac: str | None = None) -> None:
    """Send three echo requests under these addresses, or the guest's own."""
    packet = Ether(src=mac or vm.mac, dst=target["mac_address"]) / IP(src=source or vm.ips[0], dst=ip(target)) / ICMP()
    with entered(str(system.NETNS_DIR / vm.netns)):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with wire:
        wire.bind(("eth0", 0))
        for _ in range(3):
            wire.send(bytes(packet))


def _echoes(vm: Vm) -> int:
    return _echoes_in(vm.netns)


def _echoes_in(netns: str) -> int:
    """How many echo requests have come in."""
    names, values = (
        line.split()
        for line in system.run(["cat", "/proc/net/snmp"], netns=netns).splitlines()
        if line.startswith("Icmp:")
    )
    return int(dict(zip(names, values, strict=True))["InEchos"])
