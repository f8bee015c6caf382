"""The options of the controller and of the ML2 driver, group ``[df]``, and of the orchestrator, for oslo.config.

``etc/dragonflow/dragonflow.conf.sample`` is generated from these by ``oslo-config-generator --namespace dragonflow``.

A URL that holds a password is refused. But oslo.config may log all options before that, so URLs are ``secret``, too.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from oslo_config import cfg

from dragonflow import secrecy
from dragonflow.model import TUNNEL_TYPES

GROUP = "df"

ORCHESTRATOR = "orchestrator"
"""The orchestrator's group of options; it stands over regions, so it shares none with their chassis."""

STORE_OPTS = [
    cfg.StrOpt(
        "store_url",
        secret=True,
        default="sqlite:///var/lib/dragonflow/dfdb.sqlite",
        help="The DF DB. sqlite:///PATH serves one machine; every process that uses it must be able to write the file and its "
        "directory. etcd://[USER@]HOST:PORT[,HOST:PORT...]/PREFIX, redis://[USER@]HOST:PORT[/DB] or "
        "redis+sentinel://HOST:PORT[,HOST:PORT...]/MASTER serve many; etcd+tls and redis+tls encrypt. Options follow a '?': "
        "password_file, ca, cert, key (files).",
    ),
    cfg.StrOpt(
        "pubsub_url",
        secret=True,
        default="zmq+ipc:///run/dragonflow/pubsub",
        help="The message bus. 'store' relies on the DF DB's own watch alone; zmq+ipc:///DIRECTORY serves one machine; "
        "zmq+tcp://ADDRESS?key=FILE&peers=DIRECTORY binds a free port of ADDRESS and is found by others through the DF DB; the "
        "host's keys ('dragonflow keys create') and those of its peers encrypt it, without both options nothing does; redis:// "
        "and its relatives are written as for store_url.",
    ),
]

CONTROLLER_OPTS = [
    cfg.StrOpt(
        "host",
        default=socket.gethostname(),
        sample_default="the host's name",
        help="This chassis, as Neutron's binding:host_id calls it.",
    ),
    cfg.StrOpt("integration_bridge", default="br-int", help="The bridge to which VMs are plugged."),
    cfg.StrOpt(
        "ovsdb_connection",
        default="unix:/run/openvswitch/db.sock",
        help="Where Open vSwitch's database listens: unix:PATH, ssl:ADDRESS:PORT, or tcp:ADDRESS:PORT on loopback.",
    ),
    cfg.StrOpt(
        "openflow_connection",
        default="unix:/run/openvswitch/br-int.mgmt",
        help="Where the integration bridge speaks OpenFlow: unix:PATH, ssl:ADDRESS:PORT, or tcp:ADDRESS:PORT on loopback.",
    ),
    cfg.StrOpt(
        "ovs_ssl_key_file",
        help="With ssl: in either of them: file (PEM, mode 0600) with the controller's private key.",
    ),
    cfg.StrOpt("ovs_ssl_cert_file", help="The controller's certificate (PEM)."),
    cfg.StrOpt(
        "ovs_ssl_ca_cert_file",
        help="The CA (PEM) whose certificates the switch may show. Any of them is taken, so it must sign for nobody else.",
    ),
    cfg.StrOpt(
        "tunnel_ip", help="The address (IPv4 or IPv6) of this chassis in the tunnel network, its VTEP. Required."
    ),
    cfg.ListOpt(
        "tunnel_types",
        default=["geneve"],
        item_type=cfg.types.String(choices=list(TUNNEL_TYPES)),
        help="The encapsulations to offer; the first is the preferred one.",
    ),
    cfg.ListOpt(
        "bridge_mappings",
        default=[],
        help="Physical networks that this chassis reaches, each as PHYSICAL_NETWORK:BRIDGE. The bridge is yours to make and to "
        "join to the network; the controller only adds a patch port to it.",
    ),
    cfg.BoolOpt(
        "gateway",
        default=False,
        help="Makes this chassis a gateway node: it serves the gateways of routers in the external networks to which it has a "
        "bridge in bridge_mappings, whether it has VMs or not. Where there is such a node, others serve no gateways there.",
    ),
    cfg.ListOpt(
        "snat_addresses",
        default=[],
        help="IPv4 addresses of this chassis's own in external networks, one for each. With one, its guests without a floating "
        "IP leave for that network from here, under it, and not by the chassis of their router's gateway. Each must lie in a "
        "subnet of the external network, outside its allocation pools, and be nobody else's.",
    ),
    cfg.IntOpt(
        "connections_per_router",
        default=100000,
        min=0,
        max=2**32 - 1,
        help="Connections that this chassis tracks at the most for each router whose gateway it serves (SNAT and port "
        "forwardings), and for each of its snat_addresses. Beyond them new ones fail, and those of other routers don't. 0: as "
        "many as fit.",
    ),
    cfg.IntOpt(
        "connections_per_port",
        default=100000,
        min=0,
        max=2**32 - 1,
        help="Connections that this chassis tracks at the most for the security groups of each of its ports, in both "
        "directions. Beyond them answers to new ones are judged by the rules as if nobody had asked. 0: as many as fit.",
    ),
    cfg.StrOpt(
        "datapath_type",
        default="system",
        choices=["system", "netdev"],
        help="The integration bridge's data path: the kernel's, or Open vSwitch's own in user space.",
    ),
    cfg.StrOpt(
        "vhostuser_socket_dir",
        help="Directory of vhost-user sockets. Set it to have ports bound as vhost-user on this chassis.",
    ),
    cfg.StrOpt(
        "region_ipsec",
        default="off",
        choices=["off", "psk", "certificates"],
        help="How tunnels to other regions are encrypted, by Open vSwitch's own IPsec (the kernel's data path, and "
        "ovs-monitor-ipsec, are needed). psk: with the key in region_ipsec_psk_file. certificates: the files named in "
        "other_config of Open_vSwitch; the common name of each chassis's certificate must be its tunnel_ip. Where it can't be "
        "done, there are no such tunnels.",
    ),
    cfg.StrOpt(
        "region_ipsec_psk_file",
        help="With region_ipsec = psk: file (mode 0600) with the key that the chassis of all regions share.",
    ),
    cfg.StrOpt(
        "control_socket",
        default="/run/dragonflow/controller.sock",
        help="Where the controller answers 'dragonflow' about its own state (mode 0600).",
    ),
    cfg.StrOpt(
        "probe",
        default="tunnelled",
        choices=["off", "tunnelled", "all"],
        help="Of which networks the ports must prove that packets come out where they should (ofproto/trace in ovs-vswitchd, "
        "no packet is sent) before they are ACTIVE, and again and again after that. tunnelled: of those that lead to other "
        "hosts, be it by a tunnel or a physical network.",
    ),
    cfg.StrOpt(
        "vswitchd_control",
        help="ovs-vswitchd's control socket, for probes and limits of connections. Unset: found beside the database's socket.",
    ),
    cfg.IntOpt(
        "dhcp_lease_time",
        default=86400,
        min=60,
        max=2**32 - 1,
        help="Seconds for which a port's address is leased to it; 4294967295: for ever. After half of them clients ask "
        "again, and hear of what has changed.",
    ),
    cfg.ListOpt(
        "dhcp_dns_servers",
        default=[],
        help="Addresses of the DNS servers for guests on subnets that name none of their own.",
    ),
    cfg.ListOpt(
        "permitted_ethertypes",
        default=[],
        help="EtherTypes (as 0x4008) that ports with port security may send and get besides IPv4, IPv6 and ARP. What they carry "
        "is not filtered, only its source MAC.",
    ),
    cfg.StrOpt("metrics_address", help="HOST:PORT on which to answer Prometheus. Unset: not at all."),
    cfg.FloatOpt(
        "lease_ttl",
        default=6.0,
        min=1.0,
        help="Seconds after which a chassis that no longer renews its lease counts as not alive.",
    ),
]

SHARED_SECRET = "metadata_proxy_shared_secret"

METADATA_OPTS = [
    cfg.StrOpt(
        SHARED_SECRET,
        secret=True,
        help="Signs whose request it is that goes to Nova's metadata API; the same as Nova's option of this name, group "
        "[neutron]. Unset: this chassis serves no metadata.",
    ),
    cfg.HostAddressOpt(
        "nova_metadata_host", default="127.0.0.1", help="Where Nova's metadata API is: a name or an address."
    ),
    cfg.PortOpt("nova_metadata_port", default=8775, help="Its TCP port."),
    cfg.StrOpt("nova_metadata_protocol", default="http", choices=["http", "https"], help="How to speak to it."),
    cfg.StrOpt(
        "auth_ca_cert", help="With https: file of the CA that Nova's certificate must be of. Unset: the usual ones."
    ),
    cfg.BoolOpt("nova_metadata_insecure", default=False, help="With https: accept any certificate."),
]


ORCHESTRATOR_OPTS = [
    cfg.ListOpt(
        "regions",
        default=[],
        help="The regions whose networks may be stretched, by the names of their clouds in clouds.yaml; tags of networks name "
        "them so, too. The credentials must be an administrator's who may set binding:profile (role service). A region that is "
        "taken out here leaves every stretch.",
    ),
    cfg.StrOpt(
        "clouds_file",
        help="The clouds.yaml to read. Unset: the first that there is of those that every OpenStack client reads.",
    ),
    cfg.FloatOpt(
        "period",
        default=5.0,
        min=0.1,
        help="Seconds between two looks at each region: how late a change is noticed at most.",
    ),
    cfg.FloatOpt(
        "timeout",
        default=20.0,
        min=0.1,
        help="Seconds that a region's API may let one wait for the next piece of an answer.",
    ),
    cfg.IntOpt("concurrency", default=4, min=1, help="Ports that are written in one region at a time."),
    cfg.DictOpt(
        "path_mtu",
        default={},
        help="The largest IP packet, in bytes, that passes between a region's chassis and those of others, as REGION:BYTES. The "
        "MTU of stretched networks is lowered to what fits into it. A region that is not named here carries anything.",
    ),
    cfg.ListOpt(
        "ipsec", default=[], help="Regions whose tunnels to others are encrypted by IPsec, which takes of the MTU, too."
    ),
    cfg.StrOpt(
        "election",
        secret=True,
        help="A DF DB (as store_url) in which several orchestrators settle who leads; that of any region, or one for it alone. "
        "Unset: this one leads.",
    ),
    cfg.FloatOpt(
        "lease_ttl",
        default=3.0,
        min=1.0,
        help="Seconds after which another orchestrator takes over from a leader that died.",
    ),
    cfg.StrOpt(
        "status_address",
        default="127.0.0.1:9599",
        help="HOST:PORT that answers Prometheus (/metrics) and 'dragonflow stretch status' (/status), without asking who asks.",
    ),
    cfg.MultiStrOpt(
        "hints",
        secret=True,
        default=[],
        help="'REGION PUBSUB_URL STORE_URL': the region's message bus and DF DB, as its pubsub_url and store_url. When a port's "
        "status changes there, the region is looked at at once instead of within a period. May be given for each region.",
    ),
]


class ConfigError(Exception):
    """The configuration is wrong; the message names the option and the fix."""


def load(files: Sequence[str], *groups: Sequence[cfg.Opt], section: str = GROUP) -> cfg.ConfigOpts:
    """Read the options of a section from files; without any, from ``/etc/dragonflow/dragonflow.conf`` if that exists.

    :raises ConfigError: a file can't be read, or a value is not of its option's type.
    """
    conf = cfg.ConfigOpts()
    register(conf, *groups, section=section)
    try:
        conf([], project="dragonflow", default_config_files=list(files) or None)
        for options in groups:
            for option in options:
                conf[section][option.dest]
        if METADATA_OPTS in groups:
            _warn_if_open(conf)
    except (cfg.Error, ValueError) as error:
        raise ConfigError(str(error)) from error
    return conf


def _warn_if_open(conf: cfg.ConfigOpts) -> None:
    """The one secret that stands in a configuration file, for Nova has it so, too: say it if everybody may read that file."""
    if conf[GROUP][SHARED_SECRET] is not None:
        secrecy.warn_if_open(Path(conf.get_location(SHARED_SECRET, GROUP).detail), f"[{GROUP}] {SHARED_SECRET}")


def register(conf: cfg.ConfigOpts, *groups: Sequence[cfg.Opt], section: str = GROUP) -> None:
    """Make the options known to ``conf``."""
    for options in groups:
        conf.register_opts(list(options), group=section)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """For oslo-config-generator."""
    return [(GROUP, [*STORE_OPTS, *CONTROLLER_OPTS, *METADATA_OPTS]), (ORCHESTRATOR, ORCHESTRATOR_OPTS)]
