"""What the app says of networks on physical ones; tests/worlds have the places, tests/dataplane the packets."""

from __future__ import annotations

import pytest

from dragonflow.apps import APPS
from dragonflow.apps.classification import Classification
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.external import External
from dragonflow.apps.wiring import chassis_mac
from dragonflow.config import ConfigError
from dragonflow.controller.settings import _mappings
from dragonflow.model import BridgeMapping, FixedIP
from dragonflow.pipeline import (
    DESTINATION,
    FROM_TUNNEL,
    NETWORK,
    Bucket,
    Fact,
    Flow,
    Output,
    Owner,
    PatchPort,
    PopVlan,
    PushVlan,
    Resubmit,
    load,
    match,
    set_field,
)
from dragonflow.pipeline.groups import GroupKind, group_id
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world
from dragonflow.testing.worlds import World

FACTS = compile_world(APPS, worlds.STATES["physical"]()).facts


def flows(kind: str, id: str) -> list[Flow]:
    return [fact for fact in FACTS[Owner("provider", kind, id)] if isinstance(fact, Flow)]


def test_a_mapping_makes_a_pair_of_patch_ports() -> None:
    patch, *rest = FACTS[Owner("provider", "Me", "here")]
    assert patch == PatchPort("df-int-br-ex", "df-phy-br-ex", "br-ex")
    assert rest == [Classification.ports.flow(10, match(in_port=110), goto=Classification.physical)]


def test_a_vlan_is_known_by_its_tag() -> None:
    off = PopVlan(), load(NETWORK, 4), load(FROM_TUNNEL, 1)
    assert flows("LogicalSwitch", "vlan") == [
        Classification.physical.flow(10, match(in_port=110, vlan_vid=0x1064), *off, goto=External.arrival),
        Delivery.outside.flow(
            10, match((NETWORK, 4), vlan_vid=0), PushVlan(), *set_field(vlan_vid=0x1064), Output(110)
        ),
    ]


def test_a_flat_network_is_what_has_no_tag_or_one_that_names_no_vlan() -> None:
    entered = load(NETWORK, 5), load(FROM_TUNNEL, 1)
    assert flows("LogicalSwitch", "flat") == [
        Classification.physical.flow(10, match(in_port=110, vlan_vid=0), *entered, goto=External.arrival),
        Classification.physical.flow(
            10, match(in_port=110, vlan_vid=0x1000), PopVlan(), *entered, goto=External.arrival
        ),
        Delivery.outside.flow(10, match((NETWORK, 5), vlan_vid=0), Output(110)),
    ]


def test_what_is_for_many_and_for_nobody_known_goes_to_the_physical_network_once() -> None:
    def buckets(facts: tuple[Fact, ...]) -> set[Bucket]:
        return {fact for fact in facts if isinstance(fact, Bucket)}

    leave = (Resubmit(Delivery.outside.number),)
    assert buckets(FACTS[Owner("provider", "LogicalSwitch", "vlan")]) == {
        Bucket(group_id(kind, 4), 1 << 31, leave) for kind in (GroupKind.FLOOD, GroupKind.UNKNOWN)
    }
    assert flows("LogicalPort", "w") == [
        Delivery.delivery.flow(10, match((DESTINATION, 42), (FROM_TUNNEL, 0)), goto=Delivery.outside)
    ]
    assert buckets(FACTS[Owner("provider", "LogicalPort", "w")]) == set()


def test_what_a_chassis_routed_leaves_with_a_mac_of_the_chassis() -> None:
    interface = worlds.interface("r", 61, FixedIP("v4", "10.0.0.1"), net="vlan")
    rows = (*worlds.PHYSICAL, worlds.router("r", 9, "vlan"), interface)
    facts = compile_world(APPS, World.of(worlds.ME, *rows)).facts
    (flow,) = facts[Owner("provider", "LogicalPort", "r-vlan")]
    routed = match((NETWORK, 4), eth_src=interface.mac, vlan_vid=0)
    own = set_field(eth_src=chassis_mac("here"))
    assert flow == Delivery.outside.flow(20, routed, *own, PushVlan(), *set_field(vlan_vid=0x1064), Output(110))
    first = int(chassis_mac("here").partition(":")[0], 16)
    assert (first & 1, first & 2) == (0, 2), "a MAC of one machine, that no manufacturer has given"
    assert chassis_mac("here") != chassis_mac("there")


def test_each_physical_network_has_a_bridge_of_its_own() -> None:
    assert _mappings(["a:br-a", "b:br-b"]) == (BridgeMapping("a", "br-a"), BridgeMapping("b", "br-b"))
    for wrong in (["a"], [":br-a"], ["a:"], ["a:br-a", "a:br-b"], ["a:br-a", "b:br-a"]):
        with pytest.raises(ConfigError, match="bridge_mappings"):
            _mappings(wrong)
