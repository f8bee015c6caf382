"""The nouns of the DF DB: immutable rows, each in exactly one scope.

A scope is what a controller subscribes to. Rows never change their scope. Adding a field with a default keeps the
schema number; any other change of a row's shape raises it (see ``codec``).
"""

from __future__ import annotations

import re
import sys
from ipaddress import ip_address, ip_interface, ip_network
from socket import AF_INET, AF_INET6, inet_pton
from typing import ClassVar, Literal

import msgspec

_KEYS, _PORT_KEYS = range(1, 1 << 24), range(1, 1 << 30)
"""Keys of networks and of routers; and of ports. Of VNIs below, GRE has the largest (RFC 2890)."""

_VNIS, _VLANS = range(1 << 24), range(1, 4095)
_WORDS, _DSCPS = range(1 << 16), range(1 << 6)
_KILOBITS = range(0xFFFFFF01)

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

CHASSIS_SCOPE = "chassis"
ALIVE_SCOPE = "alive"
SERVER_SCOPE = "server"
LEADER_SCOPE = "leader"
REGION_SCOPE = "region"
EXTERNAL_SCOPE = "external"

DHCP_PORT = "network:dhcp"
"""The ``device_owner`` of ports whose addresses are DHCP servers'."""

ROUTER_INTERFACE = "network:router_interface"
"""The ``device_owner`` of ports by which routers stand in networks; ``device_id`` is the router."""

ROUTER_GATEWAY = "network:router_gateway"
"""The ``device_owner`` of ports by which routers stand in external networks."""

FLOATING_IP = "network:floatingip"
"""The ``device_owner`` of ports that hold floating IPs' addresses: their MAC is the floating IP's."""

GATEWAY_NODE = "gateway"
"""The ``role`` of chassis that serve routers' gateways whether they have ports behind them or not."""

TUNNEL_TYPES = ("geneve", "vxlan", "gre")
"""The network types that cross hosts in tunnels, and the encapsulations that a chassis may offer."""

PHYSICAL_TYPES = ("flat", "vlan")
"""The network types that lie on a physical network, to which a chassis gets through a bridge (``BridgeMapping``)."""


_REMOTE_CHASSIS = "RemoteChassis:"


def remote_chassis(host_ip: str) -> str:
    """The name that a chassis of another region has here; all that is known of it is its VTEP ``host_ip``."""
    return _REMOTE_CHASSIS + host_ip


def remote_vtep(chassis: str | None) -> str | None:
    """The VTEP of a chassis of another region, from its name; None if it is none of another region."""
    return chassis.removeprefix(_REMOTE_CHASSIS) if chassis and chassis.startswith(_REMOTE_CHASSIS) else None


def network_scope(network: str) -> str:
    """Everything that belongs to one network: the switch itself, its subnets and its ports."""
    return f"net:{network}"


def router_scope(router: str) -> str:
    """The router itself; its interfaces lie in their networks."""
    return f"router:{router}"


def qos_scope(policy: str) -> str:
    """The QoS policy itself; networks and ports name it."""
    return f"qos:{policy}"


def security_group_scope(group: str) -> str:
    """The security group itself, with its rules."""
    return f"secgroup:{group}"


def members_scope(group: str) -> str:
    """The ports that have the security group: for those whose rules name it as the remote side."""
    return f"members:{group}"


def address_group_scope(group: str) -> str:
    """The address group itself; rules name it as the remote side."""
    return f"addrgroup:{group}"


def host_scope(host: str) -> str:
    """What is bound to one host: the pointers from which its controller learns which networks it needs."""
    return f"host:{host}"


def status_scope(chassis: str) -> str:
    """The port statuses that one chassis writes, and nobody else."""
    return f"status:{chassis}"


def holder_scope(chassis: str) -> str:
    """Which of its ports hold addresses that they share with others; the chassis writes it, and nobody else."""
    return f"holds:{chassis}"


def _check_addresses(*texts: str | None) -> None:
    """:raises ValueError: one isn't an IP address, or has a zone (RFC 4007 §11)."""
    for text in texts:
        try:
            if text is not None:
                inet_pton(AF_INET6 if ":" in text else AF_INET, text)  # ``ip_address`` takes ten times as long
        except OSError:
            raise ValueError(f"{text!r} is no IP address") from None


def _check_numbers(within: range, *numbers: int | None) -> None:
    """:raises ValueError: one lies outside."""
    for number in numbers:
        if number is not None and number not in within:
            raise ValueError(f"{number} is not within {within.start} … {within.stop - 1}")


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="schema"):
    """A row of the DF DB. ``pooled`` names the fields whose strings many rows share; they are interned."""

    pooled: ClassVar[tuple[str, ...]] = ()

    id: str

    def __post_init__(self) -> None:
        for name in self.pooled:
            value = getattr(self, name)
            if isinstance(value, str):
                msgspec.structs.force_setattr(self, name, sys.intern(value))
            elif value:
                msgspec.structs.force_setattr(self, name, tuple(map(sys.intern, value)))

    @property
    def scope(self) -> str:
        """The one scope in which this row lies."""
        raise NotImplementedError

    def check(self) -> None:
        """What its types don't say of a row that is read. One that makes no sense counts as absent, so it harms no other.

        :raises ValueError: says which value makes no sense.
        """


class LogicalSwitch(Row, frozen=True, kw_only=True, tag="LogicalSwitch/1"):
    """A Neutron network. ``key`` is unique among all networks of the region (1 … 2^24-1).

    ``qos`` is the policy of those of its ports that have none of their own.
    """

    pooled = ("project", "network_type", "physical_network", "qos")

    key: int
    name: str = ""
    project: str = ""
    network_type: str
    physical_network: str | None = None
    segmentation_id: int | None = None
    mtu: int
    dns_domain: str = ""
    admin_up: bool = True
    external: bool = False
    qos: str | None = None
    revision: int

    @property
    def scope(self) -> str:
        return network_scope(self.id)

    def check(self) -> None:
        _check_numbers(_KEYS, self.key)
        _check_numbers(_VLANS if self.network_type == "vlan" else _VNIS, self.segmentation_id)
        _check_numbers(_WORDS, self.mtu)


class HostRoute(msgspec.Struct, frozen=True):
    """A static route told to the hosts of a subnet."""

    destination: str
    nexthop: str


class AllocationPool(msgspec.Struct, frozen=True):
    """A range of addresses, both ends included."""

    start: str
    end: str


class Subnet(Row, frozen=True, kw_only=True, tag="Subnet/1"):
    """A Neutron subnet, IPv4 or IPv6."""

    pooled = ("network", "project", "ipv6_ra_mode", "ipv6_address_mode")

    network: str
    name: str = ""
    project: str = ""
    cidr: str
    gateway_ip: str | None = None
    enable_dhcp: bool = True
    ipv6_ra_mode: str | None = None
    ipv6_address_mode: str | None = None
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()
    allocation_pools: tuple[AllocationPool, ...] = ()
    revision: int

    @property
    def scope(self) -> str:
        return network_scope(self.network)

    def check(self) -> None:
        ip_network(self.cidr)
        for route in self.host_routes:
            ip_network(route.destination, strict=False)
        pools = (end for pool in self.allocation_pools for end in (pool.start, pool.end))
        hops = (route.nexthop for route in self.host_routes)
        _check_addresses(self.gateway_ip, *self.dns_nameservers, *hops, *pools)


class FixedIP(msgspec.Struct, frozen=True):
    """An address of a port, with the subnet it comes from."""

    subnet: str
    ip: str

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "subnet", sys.intern(self.subnet))


class AddressPair(msgspec.Struct, frozen=True):
    """A further (MAC, prefix) from which a port may send; without a MAC the port's own."""

    ip: str
    mac: str | None = None


class DhcpOption(msgspec.Struct, frozen=True):
    """What a port's DHCP client gets beside the subnet's own, as Neutron's ``extra_dhcp_opts`` say it: a name or number, a value.

    An empty value keeps an option from being given.
    """

    name: str
    value: str
    ip_version: int = 4


class RemoteEnd(msgspec.Struct, frozen=True):
    """How a port of another region is reached: its network's encapsulation and VNI there, by which its chassis know it.

    None of them means: as the network has it here. ``up`` is what its own region says of the port's status.
    """

    region: str = ""
    encapsulation: str | None = None
    vni: int | None = None
    up: bool = True


class LogicalPort(Row, frozen=True, kw_only=True, tag="LogicalPort/1"):
    """A Neutron port. ``key`` is unique among all ports of the region; ``generation`` counts its bindings.

    ``chassis`` is the host to which Neutron has actively bound the port, None while it is unbound; ``standby`` are the hosts
    that are prepared for it besides (inactive bindings: the targets of a live migration).

    ``trunk`` is the trunk whose parent port it is: its interface carries tags, and only what is untagged is its own. A trunk's
    child (Neutron's subport) has no interface: ``parent`` is the port whose interface carries it, tagged ``vlan``, and
    ``chassis`` and ``standby`` are the parent's.

    A port of another region has ``remote``, and its ``chassis`` is named after a VTEP there (see ``remote_chassis``).
    """

    pooled = ("network", "project", "chassis", "device_owner", "vnic_type", "vif_type", "security_groups", "qos")

    key: int
    network: str
    name: str = ""
    project: str = ""
    mac: str
    fixed_ips: tuple[FixedIP, ...] = ()
    device_id: str = ""
    device_owner: str = ""
    admin_up: bool = True
    chassis: str | None = None
    standby: tuple[str, ...] = ()
    generation: int = 0
    vnic_type: str = "normal"
    vif_type: str = "unbound"
    security_groups: tuple[str, ...] = ()
    address_pairs: tuple[AddressPair, ...] = ()
    port_security: bool = True
    dhcp_options: tuple[DhcpOption, ...] = ()
    dns_name: str = ""
    trunk: str | None = None
    parent: str | None = None
    vlan: int | None = None
    qos: str | None = None
    remote: RemoteEnd | None = None
    revision: int

    @property
    def scope(self) -> str:
        return network_scope(self.network)

    def check(self) -> None:
        _check_numbers(_PORT_KEYS, self.key)
        _check_numbers(_VLANS, self.vlan)
        if self.remote is not None:
            _check_numbers(_VNIS, self.remote.vni)
        _check_addresses(*self.ips)
        for pair in self.address_pairs:
            _check_addresses(str(ip_interface(pair.ip).ip))
        for mac in (self.mac, *(pair.mac for pair in self.address_pairs)):
            if mac is not None and _MAC.fullmatch(mac) is None:
                raise ValueError(f"{mac!r} is no MAC in lower case")

    @property
    def ips(self) -> tuple[str, ...]:
        """The port's own addresses, without the subnets."""
        return tuple(fixed.ip for fixed in self.fixed_ips)

    @property
    def trunked(self) -> bool:
        """Whether frames of several ports pass where this one is plugged."""
        return self.trunk is not None or self.parent is not None

    @property
    def router(self) -> str | None:
        """The router whose interface the port is; None for other ports."""
        return self.device_id if self.device_owner == ROUTER_INTERFACE else None

    @property
    def is_floating(self) -> bool:
        """Whether the port holds a floating IP's address."""
        return self.device_owner == FLOATING_IP

    @property
    def routed_network(self) -> str | None:
        """The port's network, if the port is a router's interface: that makes it a routed network."""
        return self.network if self.device_owner == ROUTER_INTERFACE else None

    @property
    def gateway_network(self) -> str | None:
        """The port's network, if the port is a router's gateway there."""
        return self.network if self.device_owner == ROUTER_GATEWAY else None

    @property
    def dhcp_network(self) -> str | None:
        """The port's network, if the port's addresses are those of its DHCP server."""
        return self.network if self.device_owner == DHCP_PORT else None


class Route(msgspec.Struct, frozen=True):
    """A router's static route: what goes to ``destination`` is handed to ``nexthop``."""

    destination: str
    nexthop: str


class RouterInterface(msgspec.Struct, frozen=True):
    """One of a router's interfaces: a port and its network."""

    port: str
    network: str


class RouterGateway(msgspec.Struct, frozen=True):
    """How a router stands in an external network: by a port, which holds its addresses there.

    With ``enable_snat``, those without a floating IP reach out under the router's address. ``qos`` is the policy that limits what
    they send and get.
    """

    port: str
    network: str
    enable_snat: bool = True
    qos: str | None = None


class LogicalRouter(Row, frozen=True, kw_only=True, tag="LogicalRouter/1"):
    """A Neutron router. ``key`` is unique among all routers of the region (1 … 2^24-1)."""

    pooled = ("project",)

    key: int
    name: str = ""
    project: str = ""
    admin_up: bool = True
    routes: tuple[Route, ...] = ()
    interfaces: tuple[RouterInterface, ...] = ()
    gateway: RouterGateway | None = None
    revision: int

    @property
    def scope(self) -> str:
        return router_scope(self.id)

    def check(self) -> None:
        _check_numbers(_KEYS, self.key)
        for route in self.routes:
            ip_network(route.destination, strict=False)
            _check_addresses(route.nexthop)


class PortForwarding(msgspec.Struct, frozen=True):
    """Hands what comes for some ports of a floating IP to ports of a fixed address, all ends included.

    ``protocol`` is tcp or udp; both ranges are equally long, or the internal one is a single port.
    """

    protocol: str
    external_first: int
    external_last: int
    port: str
    ip: str
    internal_first: int
    internal_last: int


class FloatingIp(Row, frozen=True, kw_only=True, tag="FloatingIp/1"):
    """A floating IP of the external ``network``; ``port`` is its own port there, whose MAC it has.

    It stands for ``fixed_ip`` of ``fixed_port``, which ``router`` knows; or some of its ports are forwarded. All these are unset
    while it serves nobody. ``qos`` is its own policy, which limits what it sends and gets.
    """

    pooled = ("network", "project", "router", "qos")

    network: str
    address: str
    port: str
    project: str = ""
    router: str | None = None
    fixed_port: str | None = None
    fixed_ip: str | None = None
    forwardings: tuple[PortForwarding, ...] = ()
    qos: str | None = None
    revision: int

    @property
    def scope(self) -> str:
        return network_scope(self.network)

    def check(self) -> None:
        _check_addresses(self.address, self.fixed_ip, *(each.ip for each in self.forwardings))
        for each in self.forwardings:
            _check_numbers(_WORDS, each.external_first, each.external_last, each.internal_first, each.internal_last)

    @property
    def forwarding_router(self) -> str | None:
        """The router that forwards some of its ports; None if it stands for a whole port, or serves nobody."""
        return self.router if self.forwardings and self.fixed_port is None else None


class BandwidthLimit(msgspec.Struct, frozen=True):
    """``rate`` in kilobits a second, and how many kilobits may come at once."""

    rate: int
    burst: int


class QosPolicy(Row, frozen=True, kw_only=True, tag="QosPolicy/1"):
    """A QoS policy of Neutron's with its rules. ``egress`` is what a port sends, ``ingress`` what it gets, as in Neutron.

    ``dscp`` is written into the IP packets that a port sends.
    """

    pooled = ("project",)

    name: str = ""
    project: str = ""
    egress: BandwidthLimit | None = None
    ingress: BandwidthLimit | None = None
    dscp: int | None = None
    revision: int

    @property
    def scope(self) -> str:
        return qos_scope(self.id)

    def check(self) -> None:
        _check_numbers(_DSCPS, self.dscp)
        for limit in (self.egress, self.ingress):
            if limit is not None:
                _check_numbers(_KILOBITS, limit.rate, limit.burst)


class SecurityRule(msgspec.Struct, frozen=True):
    """What a security group allows: Neutron has no rules that forbid.

    ``ip_version`` is 4 or 6; ``protocol`` a number of IANA's, None for any. ``first`` and ``last`` are ports, both ends included,
    or of ICMP the type and the code: there 0 is a value like others, None means any. Of the remote side one is set at the most:
    a security group, an address group, or a prefix; without it anybody is meant.
    """

    direction: Literal["ingress", "egress"]
    ip_version: int
    protocol: int | None = None
    first: int | None = None
    last: int | None = None
    remote_group: str | None = None
    address_group: str | None = None
    prefix: str | None = None


class SecurityGroup(Row, frozen=True, kw_only=True, tag="SecurityGroup/1"):
    """A Neutron security group with its rules, in an order that depends on nothing but them.

    Without ``stateful``, answers to what a rule allows need a rule of their own.
    """

    pooled = ("project",)

    name: str = ""
    project: str = ""
    stateful: bool = True
    rules: tuple[SecurityRule, ...] = ()
    revision: int

    @property
    def scope(self) -> str:
        return security_group_scope(self.id)


class GroupMember(Row, frozen=True, kw_only=True, tag="GroupMember/1"):
    """Says that a port has a security group, and under which addresses: its own and its address pairs' (these may be prefixes).

    ``id`` is ``<group>/<port>``.
    """

    pooled = ("group",)

    group: str
    port: str
    addresses: tuple[str, ...]

    @property
    def scope(self) -> str:
        return members_scope(self.group)


class AddressGroup(Row, frozen=True, kw_only=True, tag="AddressGroup/1"):
    """A Neutron address group: prefixes that rules of security groups name together."""

    pooled = ("project",)

    name: str = ""
    project: str = ""
    addresses: tuple[str, ...] = ()
    revision: int

    @property
    def scope(self) -> str:
        return address_group_scope(self.id)


class Binding(Row, frozen=True, kw_only=True, tag="Binding/1"):
    """Says that port ``id`` is bound to ``host``. A port that is being migrated has one on each side, one ``active``."""

    pooled = ("network", "host")

    host: str
    network: str
    generation: int
    active: bool = True

    @property
    def scope(self) -> str:
        return host_scope(self.host)


class ExternalNetwork(Row, frozen=True, kw_only=True, tag="ExternalNetwork/1"):
    """Says that network ``id`` is external, and lies on a physical network: gateway nodes that have a way there follow it."""

    physical_network: str

    @property
    def scope(self) -> str:
        return EXTERNAL_SCOPE


class BridgeMapping(msgspec.Struct, frozen=True):
    """A physical network and the bridge that leads to it."""

    physical_network: str
    bridge: str


class Chassis(Row, frozen=True, kw_only=True, tag="Chassis/1"):
    """A host with Open vSwitch and a controller; ``id`` is its host name, ``tunnel_ip`` its VTEP.

    With ``gateway`` it is a gateway node: it serves routers' gateways in the external networks to which it has a way, whether it
    has VMs or not. ``snat_addresses`` are its own in external networks, under which its guests leave for them (IPv4).
    """

    tunnel_ip: str
    tunnel_types: tuple[str, ...] = ("geneve",)
    bridge_mappings: tuple[BridgeMapping, ...] = ()
    bridge: str = "br-int"
    datapath_type: str = "system"
    vhostuser_socket_dir: str | None = None
    gateway: bool = False
    snat_addresses: tuple[str, ...] = ()
    version: str = ""

    @property
    def scope(self) -> str:
        return CHASSIS_SCOPE

    def check(self) -> None:
        _check_addresses(self.tunnel_ip, *self.snat_addresses)

    @property
    def role(self) -> str | None:
        """``GATEWAY_NODE``, or None: by that gateway nodes are found without a look at all others."""
        return GATEWAY_NODE if self.gateway else None


class Alive(Row, frozen=True, kw_only=True, tag="Alive/1"):
    """Stands as long as the controller of chassis ``id`` renews its lease. ``since`` is in seconds of the epoch."""

    since: float

    @property
    def scope(self) -> str:
        return ALIVE_SCOPE


class PortStatus(Row, frozen=True, kw_only=True, tag="PortStatus/1"):
    """What ``chassis`` says of port ``id`` for the given generation of its binding.

    ``revision`` is the store revision of the port's row whose flows the barrier confirmed; ``reason`` says why the port is DOWN.
    That and ``at``, in seconds of the epoch, are only for people to read: revisions decide what is newer.

    A host that is only prepared for the port (``LogicalPort.standby``) says ACTIVE when it has it wired: the port's own status
    follows from the row of its present host alone.
    """

    pooled = ("chassis", "status", "reason")

    chassis: str
    generation: int
    status: Literal["ACTIVE", "DOWN"]
    revision: int
    at: float
    reason: str = ""

    @property
    def scope(self) -> str:
        return status_scope(self.chassis)


class TunnelState(Row, frozen=True, kw_only=True, tag="TunnelState/1"):
    """What ``chassis`` finds of its tunnel to a chassis of another region, at VTEP ``remote_ip``.

    ``id`` is ``chassis/remote_ip``. ``up`` is what BFD says: None as long as the other end has never answered.
    ``rtt_ms`` (there and back, in milliseconds) and ``mtu`` (the largest IP packet, in bytes, that arrives whole) are those of
    the underlay; None if not known. ``at`` is in seconds of the epoch.
    """

    pooled = ("chassis", "remote_ip")

    chassis: str
    remote_ip: str
    up: bool | None = None
    rtt_ms: float | None = None
    mtu: int | None = None
    at: float

    @property
    def scope(self) -> str:
        return status_scope(self.chassis)


LAST_TURN = (1 << 53) - 1
"""The greatest ``turn``: what JSON's readers can tell apart. Nobody gets there who counts."""


class Holder(Row, frozen=True, kw_only=True, tag="Holder/1"):
    """Says that ``port`` has ``address`` just now, which its allowed address pairs let it share with others, and with which MAC.

    ``chassis`` has heard it say so. Of several rows of one address the one with the greatest ``turn`` counts: who writes one sees
    to it that it is greater than all that are known. Whether a row counts at all, ``apps.shared`` says. ``at`` is in seconds of
    the epoch, and only for people to read.
    """

    pooled = ("chassis", "network", "port")

    chassis: str
    network: str
    port: str
    address: str
    mac: str
    turn: int
    at: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if str(ip_address(self.address)) != self.address or not 0 <= self.turn <= LAST_TURN:
            raise ValueError(f"address {self.address} or turn {self.turn} is not as it is written")
        if self.id != self.name(self.chassis, self.port, self.address):
            raise ValueError("the id names another chassis, port or address")  # it would stand in the way of theirs

    @classmethod
    def name(cls, chassis: str, port: str, address: str) -> str:
        """The id of such a row. It names the chassis, for of a port that migrates two may have one."""
        return f"{chassis}/{port}/{address}"

    @property
    def scope(self) -> str:
        return holder_scope(self.chassis)

    @property
    def place(self) -> str:
        """The address in its network, by which all who say that they have it are found (see ``place_of``)."""
        return place_of(self.network, self.address)


def place_of(network: str, address: str) -> str:
    """An address in its network, in one word."""
    return f"{network}/{address}"


class Server(Row, frozen=True, kw_only=True, tag="Server/1"):
    """Stands as long as a process of Neutron's that works for Dragonflow renews its lease. ``since``: seconds of the epoch."""

    host: str
    pid: int
    since: float
    version: str = ""

    @property
    def scope(self) -> str:
        return SERVER_SCOPE


class Leader(Row, frozen=True, kw_only=True, tag="Leader/1"):
    """Which ``server`` (id of its row) does what one does for all; stands on its lease. ``since`` is in seconds of the epoch."""

    server: str
    since: float

    @property
    def scope(self) -> str:
        return LEADER_SCOPE


class Region(Row, frozen=True, kw_only=True, tag="Region/1"):
    """The one row that says that this DF DB is whole: it holds all that Neutron has. ``since`` is in seconds of the epoch.

    Only Neutron's side writes it, when a comparison has left nothing missing. Where it is absent, or was written anew, the DF DB
    may be an empty or another one: then nobody may take a row that is missing for an object that is gone.
    """

    id: str = "region"
    since: float
    version: str = ""

    @property
    def scope(self) -> str:
        return REGION_SCOPE


ROWS: tuple[type[Row], ...] = (
    LogicalSwitch,
    Subnet,
    LogicalPort,
    LogicalRouter,
    FloatingIp,
    QosPolicy,
    SecurityGroup,
    AddressGroup,
    GroupMember,
    Binding,
    ExternalNetwork,
    Chassis,
    Alive,
    PortStatus,
    TunnelState,
    Holder,
    Server,
    Leader,
    Region,
)
