"""The ledger: whatever the history, the switch ends up with what is wanted now."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_switch import ModelSwitch

from dragonflow.pipeline import (
    DESTINATION,
    SOURCE,
    Bits,
    Bucket,
    Clause,
    Fact,
    Flow,
    Group,
    InternalPort,
    Meter,
    Output,
    OutputTo,
    PatchPort,
    PeerPort,
    TunnelPort,
    match,
    set_field,
)
from dragonflow.pipeline.action import ApplyMeter, Clone, Track, Translate
from dragonflow.pipeline.facts import Owner
from dragonflow.switch.connections import Cut
from dragonflow.switch.ledger import Ledger, Tunnel, cookie
from dragonflow.switch.openflow.decode import GroupBytes
from dragonflow.switch.openflow.encode import flow_name
from dragonflow.switch.openflow.messages import flow_delete, zone_flush


def owner(name: object) -> Owner:
    return Owner("app", "Thing", str(name))


def ledger() -> Ledger:
    return Ledger(now=lambda: 17.0)


def flow(number: int, *actions: Output | OutputTo | ApplyMeter) -> Flow:
    return Flow(1, 5, match(reg0=number), actions)


def carry_out(ledger: Ledger, switch: ModelSwitch, *, sweep: bool = True, finely: bool = False) -> int:
    difference = ledger.difference(sweep=sweep, finely=finely)
    switch.do(difference)
    for part in (difference.before, difference.bundle, difference.after):
        ledger.confirm(part)
    return sum(
        len(change.messages) for part in (difference.before, difference.bundle, difference.after) for change in part
    )


def fresh(wanted: dict[Owner, Sequence[Fact]]) -> ModelSwitch:
    """What a switch gets from a ledger without history."""
    switch, new = ModelSwitch(), ledger()
    for who, facts in wanted.items():
        new.set(who, facts)
    carry_out(new, switch)
    return switch


_small = st.integers(1, 3)
_ports = st.builds(Output, _small)
_facts = st.one_of(
    st.builds(flow, _small, _ports),
    st.builds(flow, _small, st.builds(OutputTo, _small)),
    st.builds(Group, _small),
    st.builds(lambda group, bucket, port: Bucket(group, bucket, (port,)), _small, _small, _ports),
    st.builds(lambda number, rate, bits: Meter(number, rate, 1, bits), _small, _small, st.booleans()),
    st.builds(lambda number, meter: (flow(number, ApplyMeter(meter)), Meter(meter, 9, 1)), _small, _small),
    st.builds(lambda number, meter: (flow(number, Clone((ApplyMeter(meter),))), Meter(meter, 9, 1)), _small, _small),
    st.builds(lambda number, address: TunnelPort(f"t{number}", "geneve", f"10.0.0.{address}"), _small, _small),
    st.builds(lambda number, peer: PeerPort(f"t{number}", "geneve", "10.0.0.1", f"10.0.1.{peer}"), _small, _small),
    st.builds(lambda number, bridge: PatchPort(f"p{number}", f"q{number}", f"br{bridge}"), _small, _small),
    st.builds(lambda number: InternalPort(f"t{number}"), _small),
    st.builds(lambda number, which, part: Clause(2, 5, match(reg0=number), which, part, 3), _small, _small, _small),
)


def _flat(facts: list[Fact | tuple[Fact, ...]]) -> list[Fact]:
    return [fact for each in facts for fact in (each if isinstance(each, tuple) else (each,))]


_steps = st.one_of(
    st.tuples(st.just("set"), st.integers(1, 4), st.lists(_facts, max_size=5).map(_flat)),
    st.tuples(st.just("set"), st.integers(1, 4), st.lists(_facts, max_size=5).map(_flat)),
    st.tuples(st.just("sync"), st.booleans(), st.booleans()),
    st.tuples(st.just("reconnect"), st.booleans(), st.booleans()),
    st.tuples(st.just("lose"), st.just(0), st.just(0)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_steps, max_size=25))
def test_after_any_history_the_switch_has_what_a_fresh_ledger_would_give_it(
    steps: list[tuple[str, int, object]],
) -> None:
    switch, tested = ModelSwitch(), ledger()
    tested.adopt({}, [], [])
    wanted: dict[Owner, Sequence[Fact]] = {}
    for kind, one, two in steps:
        match kind:
            case "set":
                wanted[owner(one)] = two  # type: ignore[assignment]
                tested.set(owner(one), two)  # type: ignore[arg-type]
            case "sync":
                before = ModelSwitch()
                before.flows, before.groups, before.meters = (
                    dict(switch.flows),
                    dict(switch.groups),
                    dict(switch.meters),
                )
                carry_out(tested, switch, sweep=bool(one), finely=bool(two))
                if not one:
                    assert before.flows.keys() <= switch.flows.keys()
                    assert before.groups.keys() <= switch.groups.keys()
                    assert before.meters.keys() <= switch.meters.keys()
            case "lose":  # the switch does it, but the connection goes before we hear of it
                switch.do(tested.difference())
                tested.adopt(*switch.dump())
            case "reconnect":
                switch = ModelSwitch() if one else switch
                flows, groups, meters = switch.dump()
                tested.adopt(flows, groups, meters)
    carry_out(tested, switch)
    assert switch == fresh(wanted)
    assert not tested.difference()
    again = ledger()
    for who, facts in wanted.items():
        again.set(who, facts)
    again.adopt(*switch.dump())
    assert not again.difference()
    assert (again.tunnels, again.patches) == (tested.tunnels, tested.patches)


def test_the_cookie_is_what_it_was_in_every_earlier_process() -> None:
    assert cookie(Owner("l2", "LogicalPort", "a")) >> 56 == 0xDF
    digest = blake2b(b"l2|LogicalPort|a").digest()
    assert cookie(Owner("l2", "LogicalPort", "a")).to_bytes(8, "big") == b"\xdf" + digest[:7]


def test_equal_facts_again_are_no_difference_and_one_change_is_one_message() -> None:
    tested, switch = ledger(), ModelSwitch()
    for number in range(100):
        tested.set(owner(number), [flow(number, Output(1))])
    assert carry_out(tested, switch) == 100
    tested.set(owner(5), [flow(5, Output(1))])
    assert not tested.difference()
    tested.set(owner(5), [flow(5, Output(2))])
    assert carry_out(tested, switch) == 1
    tested.set(owner(5), [])
    assert carry_out(tested, switch) == 1
    assert len(tested) == 99


def test_owners_that_clash_are_told_and_the_loser_takes_over_when_the_winner_goes() -> None:
    switch = ModelSwitch()
    first, second = sorted([owner("a"), owner("b")], key=cookie)
    for order in ((first, second), (second, first)):
        tested = ledger()
        for who in order:
            tested.set(who, [flow(1, Output(1 if who == first else 2))])
        (clash,) = tested.clashes
        assert (clash.winner, clash.losers) == (first, (second,))
        assert "table=1,priority=5" in clash.what
        switch = ModelSwitch()
        carry_out(tested, switch)
        assert int.from_bytes(next(iter(switch.flows.values()))[:8], "big") == cookie(first)
        tested.set(first, [])
        assert tested.clashes == ()
        assert carry_out(tested, switch) == 1
        assert int.from_bytes(next(iter(switch.flows.values()))[:8], "big") == cookie(second)


def test_flows_that_differ_only_in_whose_they_are_stand_until_the_last_is_gone() -> None:
    tested, switch = ledger(), ModelSwitch()
    first, second, third = sorted([owner("a"), owner("b"), owner("c")], key=cookie)
    for who in (third, first, second):
        tested.set(who, [flow(1, Output(1))])
    carry_out(tested, switch)
    assert tested.clashes == ()
    tested.set(third, [flow(1, Output(2))])
    (clash,) = tested.clashes
    assert (clash.winner, clash.losers) == (first, (third,))
    tested.set(third, [])
    for who in (first, second):
        assert tested.clashes == ()
        assert int.from_bytes(next(iter(switch.flows.values()))[:8], "big") == cookie(who)
        tested.set(who, [])
        carry_out(tested, switch)
    assert switch.flows == {}


def test_equal_buckets_of_several_owners_stand_until_the_last_is_gone() -> None:
    tested, switch = ledger(), ModelSwitch()
    tested.set(owner("net"), [Group(1)])
    tested.set(owner("a"), [Bucket(1, 7, (Output(7),))])
    tested.set(owner("b"), [Bucket(1, 7, (Output(7),))])
    assert carry_out(tested, switch) == 1
    assert tested.clashes == ()
    tested.set(owner("a"), [])
    assert not tested.difference()
    tested.set(owner("b"), [])
    assert carry_out(tested, switch) == 1
    assert switch.groups == {1: {}}


def test_a_bucket_is_replaced_even_where_nothing_may_be_removed_and_a_group_goes_with_its_buckets() -> None:
    tested, switch = ledger(), ModelSwitch()
    tested.set(owner("net"), [Group(1), *(Bucket(1, number, (Output(number),)) for number in range(1, 9))])
    assert carry_out(tested, switch) == 1
    tested.set(owner("net"), [Group(1), Bucket(1, 5, (Output(99),))])
    assert carry_out(tested, switch, sweep=False) == 2
    assert len(switch.groups[1]) == 8
    tested.set(owner("net"), [])
    assert carry_out(tested, switch) == 1


def test_buckets_that_differ_clash_and_name_all_owners() -> None:
    tested = ledger()
    tested.set(owner("net"), [Group(1)])
    tested.set(owner("a"), [Bucket(1, 7, (Output(7),))])
    tested.set(owner("b"), [Bucket(1, 7, (Output(8),))])
    tested.set(owner("c"), [Bucket(1, 7, (Output(8),))])
    (clash,) = tested.clashes
    assert clash.winner == owner("a")
    assert clash.losers == (owner("b"), owner("c"))


def test_a_flow_to_a_group_that_nobody_wants_gets_an_empty_one() -> None:
    tested, switch = ledger(), ModelSwitch()
    tested.set(owner("a"), [flow(1, OutputTo(9))])
    carry_out(tested, switch)
    assert switch.groups == {9: {}}
    tested.set(owner("a"), [])
    carry_out(tested, switch)
    assert switch == ModelSwitch()


def test_a_meter_stays_while_a_flow_goes_through_it() -> None:
    tested, switch = ledger(), ModelSwitch()
    tested.set(owner("policy"), [Meter(3, 100, 10)])
    tested.set(owner("port"), [flow(1, ApplyMeter(3))])
    carry_out(tested, switch)
    tested.set(owner("policy"), [])
    carry_out(tested, switch)
    assert switch.meters
    assert switch.flows
    tested.set(owner("port"), [])
    carry_out(tested, switch)
    assert switch == ModelSwitch()


def test_refused_owners_stay_out_until_they_want_something_else_or_are_forgiven() -> None:
    tested, switch = ledger(), ModelSwitch()
    tested.set(owner("bad"), [flow(1, Output(1))])
    tested.refuse(owner("bad"), "because")
    assert not tested.difference()
    assert (tested.refused[owner("bad")].reason, tested.refused[owner("bad")].at) == ("because", 17.0)
    tested.set(owner("bad"), [flow(1, Output(1))])
    assert not tested.difference()
    tested.forgive()
    assert carry_out(tested, switch) == 1
    tested.refuse(owner("bad"), "again")
    tested.set(owner("bad"), [flow(1, Output(2))])
    assert tested.refused == {}
    assert carry_out(tested, switch) == 1
    tested.refuse(owner("bad"), "again")
    tested.set(owner("bad"), [])
    assert tested.refused == {}


def test_facts_that_can_not_be_encoded_leave_out_their_owner() -> None:
    tested = ledger()
    tested.set(owner("good"), [flow(1, Output(1))])
    tested.set(owner("bad"), [flow(2, Output(1)), Flow(256, 5, match())])
    assert "can't be encoded" in tested.refused[owner("bad")].reason
    assert len(tested.difference().bundle) == 1
    tested.forgive()
    assert owner("bad") in tested.refused
    tested.set(owner("bad"), [flow(2, Output(1))])
    assert tested.refused == {}


@pytest.mark.parametrize(
    "fact",
    [
        Group(1 << 32),
        Group(-1),
        Bucket(1, 0xFFFFFFFE, ()),
        Bucket(1, 1, (Output(1),) * 5000),
        Meter(1, 1 << 32, 1),
        flow(1, *(Output(1),) * 5000),
        flow(1, OutputTo(0xFFFFFFFF)),
        flow(1, "nonsense"),  # type: ignore[arg-type]
    ],
)
def test_what_no_message_can_say_is_found_when_it_is_set_and_not_when_it_is_sent(fact: Fact) -> None:
    tested = ledger()
    tested.set(owner("bad"), [Group(1), fact])
    assert owner("bad") in tested.refused
    assert not tested.difference()


def test_foreign_groups_and_unknown_groups_are_set_whole() -> None:
    for groups in ([GroupBytes(1, None)], None):
        tested, switch = ledger(), ModelSwitch()
        tested.adopt({}, groups, [])
        tested.set(owner("net"), [Group(1), Bucket(1, 7, (Output(7),))])
        carry_out(tested, switch)
        assert list(switch.groups[1]) == [7]
        assert not tested.difference()


def test_of_tunnels_of_one_name_the_smallest_wins() -> None:
    tested = ledger()
    tested.set(owner("a"), [TunnelPort("df-t", "vxlan", "10.0.0.1")])
    tested.set(owner("b"), [PeerPort("df-t", "geneve", "10.0.0.1", "10.0.0.2")])
    assert tested.tunnels == {"df-t": Tunnel("geneve", "10.0.0.1", "10.0.0.2")}
    assert [clash.winner for clash in tested.clashes] == [owner("b")]


@pytest.mark.parametrize("facts", [[Group(1)], [Meter(1, 1, 1)], [flow(1)], [Group(1), Bucket(1, 2, ())]])
def test_changes_lead_back_to_their_owners(facts: list[Fact]) -> None:
    tested = ledger()
    tested.set(owner("a"), facts)
    tested.set(owner("b"), [flow(2)])
    difference = tested.difference(finely=True)
    names = {owner for change in (*difference.before, *difference.bundle) for owner in tested.owners_of(change)}
    assert names == {owner("a"), owner("b")}


def translating(zone: int, address: str, *, table: int = 1) -> Flow:
    nat = Track(zone, 9, commit=True, translate=Translate(source=address))
    return Flow(table, 5, match(eth_type=0x0800), (nat,))


def forwarding(first: int, mask: int = 0xFFFF, *, to: str = "10.0.0.3", port: int = 80) -> Flow:
    """Of TCP ports of 192.0.2.9, in zone 5."""
    nat = Track(5, 9, commit=True, translate=Translate(destination=to, ports=(port, port)))
    return Flow(3, 5, match(eth_type=0x0800, ip_proto=6, ipv4_dst="192.0.2.9", tcp_dst=(first, mask)), (nat,))


def packed(address: str) -> bytes:
    return IPv4Address(address).packed


OUTSIDE = packed("192.0.2.9")


class Sync:
    """A ledger and its switch; ``it(facts…)`` syncs them, and returns the messages that empty zones, and the cuts."""

    def __init__(self) -> None:
        self.switch, self.tested = ModelSwitch(), ledger()
        self.tested.adopt({}, [], [])
        self.others: dict[str, Fact] = {}

    def __call__(self, *facts: Fact, **others: Fact) -> list[object]:
        """``others`` are those of further owners, by name, each one fact."""
        for name in self.others | others:
            self.tested.set(owner(name), [others[name]] if name in others else ())
        self.others = others
        self.tested.set(owner(1), facts)
        difference = self.tested.difference()
        done = [it for change in (*difference.before, *difference.after) for it in change.messages]
        carry_out(self.tested, self.switch)
        assert not self.tested.difference()
        restarted = ledger()
        restarted.adopt(self.switch.flows, [], [])
        restarted.set(owner(1), facts)
        for name, fact in others.items():
            restarted.set(owner(name), [fact])
        assert not restarted.difference(), "its connections outlive a controller"
        return [*done, *difference.cuts]


def test_a_zone_is_emptied_before_it_means_something_else_and_when_nobody_uses_it() -> None:
    sync = Sync()
    assert sync(translating(5, "192.0.2.1")) == [zone_flush(5)]
    assert sync(translating(5, "192.0.2.1"), translating(5, "192.0.2.1", table=2)) == []
    assert sync(translating(5, "192.0.2.2")) == [Cut(5, packed("192.0.2.1"))]
    assert sync(translating(5, "192.0.2.2"), forwarding(8080)) == []
    assert sync(forwarding(8080)) == [Cut(5, packed("192.0.2.2"))], "what is forwarded goes on"
    assert sync() == [zone_flush(5)]


def tracking(port: int, zone: int, bits: Bits = SOURCE) -> Flow:
    return Flow(9, 5, match((bits, port), eth_type=0x0800), (Track(zone, 10),))


def test_a_zone_that_goes_to_another_port_is_emptied_while_nobody_has_it() -> None:
    sync = Sync()
    assert sync(tracking(1, 5), tracking(1, 5, DESTINATION), tracking(2, 6)) == [zone_flush(5), zone_flush(6)]
    assert sync(tracking(1, 5), tracking(2, 6)) == [], "the same port has it still"
    gone = flow_delete(flow_name(9, 5, match((SOURCE, 1), eth_type=0x0800)))
    after = [zone_flush(5), zone_flush(6)]
    assert sync(tracking(2, 5)) == [gone, zone_flush(5), *after], "what was on its way may have come after"
    other = ledger()
    other.adopt(sync.switch.flows, [], [])
    other.set(owner(1), [tracking(3, 5)])
    assert len(other.difference().before) == 2, "or while the controller was away"


def test_clauses_of_several_owners_on_one_match_are_one_flow_and_go_one_by_one() -> None:
    book, switch = ledger(), ModelSwitch()
    one, other = (Clause(2, 5, match(reg0=7), which, 1, 2) for which in (1, 2))
    book.set(owner("a"), [one])
    book.set(owner("b"), [one, other])
    assert carry_out(book, switch) == 1
    (both,) = switch.flows.values()
    book.set(owner("a"), [])
    assert carry_out(book, switch) == 0, "another still wants it"
    book.set(owner("b"), [other])
    assert carry_out(book, switch) == 1
    (alone,) = switch.flows.values()
    assert len(both) - len(alone) == 16, "one action less, under the same cookie"
    assert both[:8] == alone[:8]
    book.set(owner("b"), [])
    assert carry_out(book, switch) == 1
    assert not switch.flows


def test_what_a_port_is_forwarded_to_no_more_is_cut_and_nothing_else() -> None:
    sync, host = Sync(), packed("10.0.0.3")
    stays = translating(5, "192.0.2.1"), forwarding(22, port=22)
    assert sync(*stays) == [zone_flush(5)]
    assert sync(*stays, forwarding(8080)) == []
    assert sync(*stays, forwarding(8080, to="10.0.0.4")) == [Cut(5, OUTSIDE, 6, 8080, host)]
    assert sync(*stays, forwarding(8080, to="10.0.0.4", port=81)) == [Cut(5, OUTSIDE, 6, 8080, packed("10.0.0.4"))]
    assert sync(*stays) == [Cut(5, OUTSIDE, 6, 8080, packed("10.0.0.4"))]
    assert sync(*stays, forwarding(4096, 0xFFFE)) == []
    assert sync(*stays, forwarding(4096, 0xFFFC)) == [], "ports that stay in another block of a range"
    assert sync(*stays, forwarding(4096)) == [Cut(5, OUTSIDE, 6, port, host) for port in (4097, 4098, 4099)]
    assert sync(*stays, forwarding(4096, 0xFFF0)) == []
    assert sync(*stays) == [Cut(5, OUTSIDE, 6, host=host)], "too many for one by one"


def numbered(guest: str, address: str = "192.0.2.1") -> Flow:
    """A guest's flow, which writes a source of the guest's own before packets are tracked."""
    nat = Track(5, 9, commit=True, translate=Translate(source=address))
    return Flow(4, 5, match(eth_type=0x0800, ipv4_src=guest), (*set_field(ipv4_src=guest), nat))


def test_a_guests_connections_go_with_it_and_nobody_gets_them_who_has_its_number_next() -> None:
    sync, (one, two) = Sync(), ("240.0.0.1", "240.0.0.2")
    address = packed("192.0.2.1")
    assert sync(numbered(one)) == [zone_flush(5)]
    assert sync(numbered(one), numbered(two)) == []
    assert sync(numbered(one)) == [Cut(5, address, guest=packed(two))]
    assert sync(other=numbered(one)) == [Cut(5, address, guest=packed(one))], "the number is another's at once"
    restarted = ledger()
    restarted.adopt(sync.switch.flows, [], [])
    restarted.set(owner(3), [numbered(one)])
    assert restarted.difference().cuts == (Cut(5, address, guest=packed(one)),), "or while the controller was away"


def test_a_restarted_ledger_cuts_what_was_forwarded_before() -> None:
    sync, restarted = Sync(), ledger()
    sync(translating(5, "192.0.2.1"), forwarding(4096, 0xFFFE), forwarding(8080))
    restarted.adopt(sync.switch.flows, [], [])
    restarted.set(owner(1), (translating(5, "192.0.2.1"), forwarding(4097), forwarding(8080)))
    assert not restarted.difference(sweep=False).cuts
    assert restarted.difference().cuts == (Cut(5, OUTSIDE, 6, 4096, packed("10.0.0.3")),)
