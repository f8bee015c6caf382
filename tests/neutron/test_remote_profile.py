"""What a profile says of another region, and what is wrong with one of which no sense can be made."""

from __future__ import annotations

import pytest

from dragonflow.model import RemoteEnd
from dragonflow.neutron.profile import ProfileError, RemotePort, decoded, read, remote

VTEP = "198.51.100.7"
LEAST = {"port_key": "remote_port", "host_ip": VTEP}
FULL = {**LEAST, "region": "west", "network_type": "vxlan", "segmentation_id": 77, "status": "DOWN"}


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (None, None),
        ({}, None),
        ("text", None),
        ({"host_ip": "nonsense", "migrating_to": "h2"}, None),
        (LEAST, RemotePort(VTEP, RemoteEnd())),
        (FULL, RemotePort(VTEP, RemoteEnd("west", "vxlan", 77, False))),
        ({**LEAST, "segmentation_id": "16777215"}, RemotePort(VTEP, RemoteEnd(vni=16777215))),
        ({**LEAST, "host_ip": "2001:DB8:0:0::7"}, RemotePort("2001:db8::7", RemoteEnd())),
        ({**LEAST, "host_ip": "fd00::7"}, RemotePort("fd00::7", RemoteEnd())),
    ],
)
def test_what_a_profile_says(profile, expected):
    assert read(profile) == expected
    assert remote(profile, "") == remote(profile, None) == expected
    assert remote(profile, "h1") is None, "it is here"


def test_the_chassis_is_named_after_its_address():
    assert read({**LEAST, "host_ip": "2001:DB8::7"}).chassis == "RemoteChassis:2001:db8::7"


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"port_key": "remote"}, "port_key is 'remote': the only one known is 'remote_port'"),
        ({"hostip": VTEP, "vni": 3}, "unknown keys hostip, vni: those of a remote port are port_key, host_ip, region"),
        ({"host_ip": None}, "host_ip is None: give an IPv4 or IPv6 address"),
        ({"host_ip": 3325256711}, "host_ip is 3325256711: give an IPv4 or IPv6 address"),
        ({"host_ip": "chassis7"}, "host_ip is 'chassis7': give an IPv4"),
        ({"host_ip": VTEP + "/24"}, "host_ip is '198.51.100.7/24': give an IPv4"),
        *(
            ({"host_ip": ip}, f"host_ip is {ip!r}: give a routable unicast address")
            for ip in ("224.0.0.5", "ff02::1", "127.0.0.1", "::1", "0.0.0.0", "::", "255.255.255.255", "169.254.1.1")
        ),
        *(
            ({"host_ip": ip}, f"host_ip is {ip!r}: give a routable unicast address")
            for ip in ("fe80::7", "fe80::7%eth0", "2001:db8::7%eth0", "::ffff:198.51.100.7")
        ),
        ({"region": ""}, "region is '': give the name"),
        ({"region": 7}, "region is 7: give the name"),
        ({"region": "w" * 256}, "of 1 to 255 printable characters"),
        ({"region": "\ud800"}, "of 1 to 255 printable characters"),
        ({"network_type": "vlan"}, "network_type is 'vlan': give one of geneve, vxlan, gre"),
        ({"network_type": ["geneve"]}, "network_type is ['geneve']: give one of"),
        *(
            ({"segmentation_id": vni}, f"segmentation_id is {vni!r}: give a whole number from 1 to 16777215")
            for vni in (0, 1 << 24, -1, "0x4d", "", 7.0, True, [7])
        ),
        ({"status": "active"}, "status is 'active': give ACTIVE or DOWN"),
        ({"status": None}, "status is None: give ACTIVE or DOWN"),
    ],
)
def test_the_wrong_key_is_named_with_what_it_should_be(changed, names):
    with pytest.raises(ProfileError) as refused:
        read({**LEAST, **changed})
    assert names in str(refused.value)
    assert remote({**LEAST, **changed}, "") is None, "and what was there before the door is nowhere"


def test_the_address_is_asked_for():
    with pytest.raises(ProfileError, match="host_ip is missing: give the tunnel address"):
        read({"port_key": "remote_port"})


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "{not json", "7"])
def test_a_profile_that_is_none_is_empty(text):
    assert decoded(text) == {}


def test_a_profile_is_read_as_ml2_keeps_it():
    assert decoded('{"port_key": "remote_port"}') == {"port_key": "remote_port"}
