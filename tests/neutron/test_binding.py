from __future__ import annotations

import pytest

from dragonflow.model import BridgeMapping, Chassis
from dragonflow.neutron import binding
from dragonflow.neutron.binding import HostNow

CHASSIS = Chassis(
    id="h1",
    tunnel_ip="192.0.2.1",
    tunnel_types=("geneve", "vxlan"),
    bridge_mappings=(BridgeMapping("physnet1", "br-ex"),),
    datapath_type="netdev",
    gateway=True,
    version="1",
)
PORT = "0b1f3d2a-1111-2222-3333-444455556666"


def segment(network_type: str, physical_network: str | None = None) -> dict:
    return {"id": "seg", "network_type": network_type, "physical_network": physical_network, "segmentation_id": 5}


@pytest.mark.parametrize(
    "wanted",
    [segment("local"), segment("geneve"), segment("vxlan"), segment("flat", "physnet1"), segment("vlan", "physnet1")],
)
def test_a_live_chassis_takes_what_it_can_reach(wanted):
    assert binding.obstacle("h1", HostNow(CHASSIS, True), wanted) is None


@pytest.mark.parametrize(
    ("now", "wanted", "reason"),
    [
        (HostNow(None, False), segment("geneve"), "host h1 has no chassis"),
        (HostNow(None, True), segment("geneve"), "host h1 has no chassis"),
        (HostNow(CHASSIS, False), segment("geneve"), "host h1 is not alive"),
        (HostNow(CHASSIS, True), segment("gre"), "host h1 offers no gre tunnels"),
        (HostNow(CHASSIS, True), segment("vlan", "physnet2"), "host h1 has no bridge for physical network physnet2"),
        (HostNow(CHASSIS, True), segment("warp"), "type warp"),
    ],
)
def test_a_refusal_names_the_host_and_what_is_missing(now, wanted, reason):
    assert reason in binding.obstacle("h1", now, wanted)


def test_a_port_is_plugged_as_ovs():
    assert binding.vif(CHASSIS, PORT) == (
        "ovs",
        {"port_filter": True, "connectivity": "l2", "bridge_name": "br-int", "datapath_type": "netdev"},
    )


def test_a_chassis_with_a_socket_directory_gets_vhost_user():
    chassis = Chassis(id="h1", tunnel_ip="192.0.2.1", vhostuser_socket_dir="/run/vhost")
    kind, details = binding.vif(chassis, PORT)
    assert kind == "vhostuser"
    assert details["vhostuser_socket"] == "/run/vhost/vhu0b1f3d2a-11"
    assert details["vhostuser_mode"] == "server"
    assert details["vhostuser_ovs_plug"] is True


def test_routed_networks_tie_a_port_to_its_subnets_segment():
    segments = [{"id": "a"}, {"id": "b"}]
    assert binding.segments_for(segments, ["b"]) == [{"id": "b"}]
    assert binding.segments_for(segments, []) == segments
    assert binding.segments_for(segments, [None]) == segments


def test_an_agents_configurations_say_what_the_chassis_said():
    agent = {"host": "h1", "configurations": binding.configurations(CHASSIS)}
    assert agent["configurations"]["tunneling_ip"] == "192.0.2.1"
    assert binding.chassis_of_agent(agent) == CHASSIS
