"""Random matches and actions that Open vSwitch accepts, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dragonflow.pipeline import IN_PORT, Action, Move, Output, OutputTo, PopVlan, PushVlan, Resubmit, SetField, match
from dragonflow.pipeline.action import ApplyMeter, CheckSize, Punt, Spread
from dragonflow.pipeline.fields import FIELDS
from dragonflow.pipeline.match import Match
from dragonflow.pipeline.registers import PATH, TOO_BIG

_ND = {"eth_type": 0x86DD, "ip_proto": 58, "icmpv6_code": 0}
CONTEXTS: tuple[tuple[dict[str, int], tuple[str, ...]], ...] = (
    ({}, ()),
    ({"vlan_vid": 0x1005}, ("vlan_pcp",)),
    ({"eth_type": 0x0800}, ("ipv4_src", "ipv4_dst", "ip_dscp", "ip_ecn", "ip_ttl")),
    ({"eth_type": 0x86DD}, ("ipv6_src", "ipv6_dst", "ip_dscp", "ip_ecn", "ip_ttl")),
    ({"eth_type": 0x0800, "ip_proto": 6}, ("tcp_src", "tcp_dst", "tcp_flags", "ipv4_src", "ip_frag")),
    ({"eth_type": 0x86DD, "ip_proto": 17}, ("udp_src", "udp_dst", "ipv6_dst", "ip_frag")),
    ({"eth_type": 0x0800, "ip_proto": 132}, ("sctp_src", "sctp_dst", "ipv4_dst")),
    ({"eth_type": 0x0800, "ip_proto": 1}, ("icmpv4_type", "icmpv4_code", "ipv4_dst")),
    ({**_ND, "icmpv6_type": 135}, ("nd_target", "nd_sll", "nd_reserved", "nd_options_type", "ipv6_src")),
    ({**_ND, "icmpv6_type": 136}, ("nd_target", "nd_tll", "nd_reserved", "nd_options_type", "ipv6_src")),
    ({"eth_type": 0x0806, "arp_op": 1}, ("arp_spa", "arp_tpa", "arp_sha", "arp_tha")),
)
"""What a match must hold, and the fields that it may then hold too."""

LAST_PORT = 0xFEFF
"""Open vSwitch numbers ports below 0xFF00 (OFPP_MAX in its include/openflow/openflow-1.0.h), and refuses others."""

USED_BITS = {"ct_state": 0xFF, "ip_frag": 0x3}
"""Of fields of which Open vSwitch refuses the other bits."""

ANYWHERE = (
    "in_port",
    "eth_src",
    "eth_dst",
    "tunnel_id",
    "tun_ipv4_src",
    "tun_ipv4_dst",
    "metadata",
    "conj_id",
    "ct_state",
    "ct_mark",
    *(f"reg{number}" for number in range(16)),
)


@st.composite
def contents(draw: st.DrawFn, name: str) -> int | tuple[int, int]:
    """A value, or a value under a mask where the field takes one."""
    field = FIELDS[name]
    value = draw(st.integers(0, field.full))
    if name == "in_port":
        return draw(st.integers(1, LAST_PORT))
    if name in USED_BITS:
        mask = draw(st.integers(1, USED_BITS[name]))
        return value & mask, mask
    if not field.maskable or name == "vlan_vid" or draw(st.booleans()):
        return value
    mask = draw(st.integers(1, field.full))
    return value & mask, mask


@st.composite
def matches(draw: st.DrawFn) -> Match:
    base, allowed = draw(st.sampled_from(CONTEXTS))
    names = draw(st.lists(st.sampled_from([*allowed, *ANYWHERE]), unique=True, max_size=8))
    fields: dict[str, Any] = {name: draw(contents(name)) for name in names}
    return match(**base, **fields)


@st.composite
def _set_field(draw: st.DrawFn) -> SetField:
    name = draw(
        st.sampled_from(["eth_src", "eth_dst", "tunnel_id", "tun_ipv4_dst", "metadata", "reg0", "reg7", "reg15"])
    )
    field = FIELDS[name]
    mask = draw(st.one_of(st.none(), st.integers(1, field.full - 1)))
    value = draw(st.integers(0, field.full))
    return SetField(field, value if mask is None else value & mask, mask)


@st.composite
def _move(draw: st.DrawFn) -> Move:
    width = draw(st.integers(1, 32))
    source, target = draw(st.sampled_from(["reg0", "metadata"])), draw(st.sampled_from(["reg5", "tunnel_id"]))
    return Move(
        FIELDS[source],
        draw(st.integers(0, FIELDS[source].bits - width)),
        FIELDS[target],
        draw(st.integers(0, FIELDS[target].bits - width)),
        width,
    )


actions: st.SearchStrategy[tuple[Action, ...]] = st.lists(
    st.one_of(
        st.tuples(st.builds(Output, st.one_of(st.integers(1, LAST_PORT), st.just(IN_PORT)))),
        st.tuples(st.builds(OutputTo, st.integers(1, 1000))),
        st.tuples(st.builds(Resubmit, st.integers(0, 250))),
        st.tuples(st.builds(ApplyMeter, st.integers(1, 100))),
        st.tuples(st.builds(Punt, st.integers(0, 255), st.binary(max_size=40))),
        st.tuples(st.builds(Spread, st.just(PATH), st.integers(1, 64))),
        st.tuples(st.builds(CheckSize, st.integers(0, 0xFFFF), st.just(TOO_BIG))),
        st.just((PushVlan(), PopVlan())),
        st.tuples(_set_field()),
        st.tuples(_move()),
    ),
    max_size=6,
).map(lambda groups: tuple(action for group in groups for action in group))
