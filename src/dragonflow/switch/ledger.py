"""The ledger: what the owners want of the switch, what the switch has, and the messages that lead from one to the other.

    facts by owner ──set──> claims by name ──difference──> messages ──(switch)──> confirm
                                  ^                                                  │
    a switch's dumps ────adopt────┴──────────────────────────────────────────────────┘

No I/O here, and no history: the difference depends only on the facts wanted now and on what the switch has. Facts are encoded
when they are set and kept as bytes only.

Where owners disagree, the smallest claim wins, independent of who came first; of flows that is the one with the smallest
cookie. The others are told by ``clashes`` and take over when the winner goes. Flows that differ in nothing but whose they are
(two ports that share an address) are no disagreement.

A group stands while an owner wants it (``Group``) or a wanted flow or bucket sends to it, so no flow is ever refused for want of
a group; an empty group drops. Buckets alone make no group. A meter stays while a flow goes through it.

Clauses of several owners that have one match make one flow. It is the ledger's own: its cookie is that of an owner named after
the match, under which a refusal of the switch is told.

A conntrack zone is emptied before flows begin to use it (those that translate, and those that find the connections of a port),
and when the last one is gone: no connection meets its router or port again in one that gets the number later. Where a zone goes
from one port to another, the flows of the one that had it go first, then its connections. Connections that flows in a zone
wouldn't begin any more are cut (``connections``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any, Literal, NamedTuple

import msgspec

from dragonflow.pipeline.action import Action, ApplyMeter, Clone, OutputTo, Track
from dragonflow.pipeline.facts import (
    ALL_PUNTED,
    Bucket,
    Clause,
    Fact,
    Flow,
    Group,
    InternalPort,
    Meter,
    Owner,
    PatchPort,
    PeerPort,
    TunnelPort,
)
from dragonflow.pipeline.fields import FIELDS, Field
from dragonflow.pipeline.registers import DESTINATION, SOURCE, Bits
from dragonflow.switch.claims import Claims
from dragonflow.switch.connections import Begun, Cut, begun, begun_on, cuts
from dragonflow.switch.openflow import messages
from dragonflow.switch.openflow.decode import GroupBytes, MeterFigures, read_conditions
from dragonflow.switch.openflow.encode import (
    conjunction,
    conjunctions,
    encode_actions,
    flow_contents,
    flow_name,
    match_of,
    table_and_priority,
    tracked,
    translation,
)
from dragonflow.switch.openflow.messages import BucketBytes, Message

_COOKIE_PREFIX = b"\xdf"
_COOKIE = 8
"""Bytes of a cookie, with which a flow's contents begin."""


def cookie(owner: Owner) -> int:
    """The cookie of the owner's flows: 0xDF, then the first 56 bits of BLAKE2b over ``app|kind|id``."""
    return int.from_bytes(_cookie(owner), "big")


def _cookie(owner: Owner) -> bytes:
    return _COOKIE_PREFIX + blake2b("|".join(owner).encode()).digest()[:7]


class Degraded(msgspec.Struct, frozen=True):
    """Why an owner's facts (or some of them) are not on the switch, and since when (seconds, as the ledger's clock has it)."""

    reason: str
    at: float

    def __str__(self) -> str:
        return self.reason


class Clash(msgspec.Struct, frozen=True):
    """Owners that claim different things under one name; ``winner`` has it. ``at`` is when it was first seen."""

    what: str
    winner: Owner
    losers: tuple[Owner, ...]
    at: float


class Kind:
    """What a claim or a change is about. Plain numbers: they are hashed for every fact, and an enum's hash is slow."""

    FLOW, GROUP, BUCKET, METER, TUNNEL, METER_USE, PATCH, ZONE, BEGUN, CLAUSE = range(10)
    NAMES = (
        *("flow", "group", "bucket", "meter", "tunnel port", "use of meter", "patch port", "conntrack zone"),
        *("beginning of connections", "clause"),
    )


class Change(NamedTuple):
    """A step towards what is wanted: the messages, and what the switch has under the name once they are done.

    ``value`` is None where nothing is left; for a group it is the tuple of all its buckets, and for buckets (``name`` is the
    group) the tuple of those added.
    """

    messages: tuple[Message, ...]
    kind: int
    name: Any
    value: Any


class Difference(msgspec.Struct, frozen=True):
    """What to send, in order: ``before`` one by one, ``bundle`` as one atomic bundle, ``after`` one by one; then the cuts."""

    before: tuple[Change, ...]
    bundle: tuple[Change, ...]
    after: tuple[Change, ...]
    cuts: tuple[Cut, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.before or self.bundle or self.after)


FLOW = "flow"
"""The remote end of a tunnel port whose flows say where packets go."""


class Tunnel(NamedTuple):
    """The contents of a tunnel port; ``remote`` is "flow" where flows say where packets go, else the one peer's address.

    An internal port has no ends.
    """

    type: str
    local: str | None = None
    remote: str | None = None
    ipsec: Literal["psk", "certificates"] | None = None


class Patch(NamedTuple):
    """The contents of a patch port: the name of the port at its other end, and that one's bridge."""

    peer: str
    bridge: str


class _Refusal(NamedTuple):
    owner: Owner
    items: tuple[Any, ...] | None  # None: they can't even be encoded
    degraded: Degraded


class _Held(NamedTuple):
    owner: Owner
    items: tuple[Any, ...]  # flat, for memory's sake: kind, name, value, kind, name, value, …


_LARGEST_ID = 0xFFFFFF00
"""OFPG_MAX; what is beyond has meanings of its own."""

_LONGEST = 65_000
"""Bytes of a flow or a bucket that surely fit into a message, headers, padding and bundle included."""

_PORT = FIELDS[SOURCE.field], FIELDS[DESTINATION.field]

_PLAIN, _FOREIGN = "all", "foreign"
"""A group as the ledger makes them, or one of another type or with other properties."""


class Ledger:
    """``now`` tells the time that ``degraded`` reports."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._held: dict[bytes, _Held] = {}
        self._refused: dict[bytes, _Refusal] = {}
        self._flows: Claims[bytes, bytes] = Claims()
        self._groups: Claims[int, str] = Claims()
        self._buckets: Claims[tuple[int, int], bytes] = Claims()
        self._meters: Claims[int, tuple[int, int, bool]] = Claims()
        self._tunnels: Claims[str, Tunnel] = Claims()
        self._meter_uses: Claims[int, bool] = Claims()
        self._patches: Claims[str, Patch] = Claims()
        self._zones: Claims[int, int] = Claims()
        """Whose each zone is: the key of a port, or 0."""
        self._begun: Claims[Begun, bytes] = Claims()
        self._claims: tuple[Claims[Any, Any], ...] = (
            *(self._flows, self._groups, self._buckets),
            *(self._meters, self._tunnels, self._meter_uses),
            *(self._patches, self._zones, self._begun),
        )
        self._members: dict[int, set[int]] = {}
        self._clauses: dict[bytes, Counter[bytes]] = {}
        """By the name of the flow: the clauses laid on its match, and how many owners want each."""
        self._clash_seen: dict[tuple[int, Any], float] = {}

    # What is wanted

    def set(self, owner: Owner, facts: Iterable[Fact]) -> None:
        """From now on the owner wants exactly these facts; none means that it wants nothing."""
        number = _cookie(owner)
        try:
            items = _encode(number, facts)
        except Exception as error:  # whatever an app made up, it must not take the others' flows along
            self._replace(number, owner, ())
            self._refused[number] = _Refusal(owner, None, Degraded(f"can't be encoded: {error}", self._now()))
            return
        self._want(number, owner, items)

    def _want(self, number: bytes, owner: Owner, items: tuple[Any, ...]) -> None:
        refusal = self._refused.get(number)
        if refusal is not None:
            if refusal.items == items:
                return
            del self._refused[number]
        self._replace(number, owner, items)

    def refuse(self, owner: Owner, reason: str) -> None:
        """Leave the owner's facts out until it wants something else, or until ``forgive``."""
        number = _cookie(owner)
        held = self._held.get(number)
        if held is not None:
            self._replace(number, owner, ())
            self._refused[number] = _Refusal(owner, held.items, Degraded(reason, self._now()))

    def forgive(self) -> None:
        """Try again what was refused: another switch may take it."""
        for number, refusal in list(self._refused.items()):
            if refusal.items is not None:
                del self._refused[number]
                self._replace(number, refusal.owner, refusal.items)

    @property
    def refused(self) -> Mapping[Owner, Degraded]:
        """Whose facts are left out wholly, and why."""
        return {refusal.owner: refusal.degraded for refusal in self._refused.values()}

    @property
    def tunnels(self) -> Mapping[str, Tunnel]:
        """The tunnel ports wanted, and internal ones, by name."""
        return {name: tunnel for name in self._tunnels if (tunnel := self._tunnels.wanted(name)) is not None}

    @property
    def patches(self) -> Mapping[str, Patch]:
        """The patch ports wanted, by name."""
        return {name: patch for name in self._patches if (patch := self._patches.wanted(name)) is not None}

    @property
    def zones(self) -> Collection[int]:
        """The conntrack zones that flows that are wanted use."""
        return tuple(self._zones)

    @property
    def clashes(self) -> Sequence[Clash]:
        """Where owners contradict each other now."""
        return tuple(self._clashes())

    def __len__(self) -> int:
        """How many flows are wanted."""
        return len(self._flows)

    def _replace(self, number: bytes, owner: Owner, items: tuple[Any, ...]) -> None:
        held = self._held.get(number)
        old = held.items if held is not None else ()
        if old == items:
            return
        if items:
            self._held[number] = _Held(owner, items)
        else:
            del self._held[number]
        gone, come = list(_triples(old)), list(_triples(items))
        if gone and come:
            kept = set(gone).intersection(come)
            gone, come = [each for each in gone if each not in kept], [each for each in come if each not in kept]
        for kind, name, value in come:
            if kind == Kind.CLAUSE:
                self._clauses.setdefault(name, Counter())[value] += 1
                continue
            self._claims[kind].add(name, value)
            if kind == Kind.BUCKET:
                self._members.setdefault(name[0], set()).add(name[1])
                self._leave_to_group(name)
        for kind, name, value in gone:
            if kind == Kind.CLAUSE:
                self._clauses[name][value] -= 1
                continue
            self._claims[kind].remove(name, value)
            if kind == Kind.BUCKET:
                if name not in self._buckets:
                    self._forget_member(*name)
                self._leave_to_group(name)
        for flow in {name for kind, name, _ in chain(come, gone) if kind == Kind.CLAUSE}:
            self._join_clauses(flow)

    def _join_clauses(self, flow: bytes) -> None:
        """The flow of a match holds just the clauses that owners want on it."""
        clauses = +self._clauses[flow]
        if clauses:
            self._clauses[flow] = clauses
        else:
            del self._clauses[flow]
        owner = Owner("clauses", "Flow", flow.hex())
        number = _cookie(owner)
        self._want(number, owner, (Kind.FLOW, flow, conjunctions(number, clauses)) if clauses else ())

    def _leave_to_group(self, bucket: tuple[int, int]) -> None:
        """The buckets of a group that isn't there come with the group."""
        if self._groups.on_switch(bucket[0]) != _PLAIN:
            self._buckets.unlike.pop(bucket, None)

    def _forget_member(self, group: int, bucket: int) -> None:
        members = self._members[group]
        members.remove(bucket)
        if not members:
            del self._members[group]

    # What to send

    def difference(self, *, sweep: bool = True, finely: bool = False) -> Difference:
        """What leads from what the switch has to what is wanted. Costs as much as what changed.

        Without ``sweep`` nothing is removed. ``finely`` gives every bucket a message of its own, so that an error names it.
        """
        bundle = (
            *self._group_changes(finely),
            *self._bucket_changes(sweep, finely),
            *self._flow_adds(),
            *(self._flow_deletes() if sweep else ()),
            *(self._group_deletes() if sweep else ()),
        )
        begun = tuple(self._begun_changes(sweep))
        after = (*self._zone_changes(sweep), *(self._meter_deletes() if sweep else ()), *begun)
        before = (*self._meter_changes(), *self._zone_takings())
        return Difference(before, bundle, after, self._cuts(begun))

    def _group_changes(self, finely: bool) -> Iterator[Change]:
        for group in self._groups.unlike:
            if self._groups.wanted(group) is None:
                continue
            buckets = tuple(
                BucketBytes(bucket, actions)
                for bucket in sorted(self._members.get(group, ()))
                if (actions := self._buckets.wanted((group, bucket))) is not None
            )
            if not finely:
                yield Change(tuple(messages.group_set(group, buckets)), Kind.GROUP, group, buckets)
                continue
            yield Change(tuple(messages.group_set(group, ())), Kind.GROUP, group, ())
            yield from (_insert(group, bucket) for bucket in buckets)

    def _bucket_changes(self, sweep: bool, finely: bool) -> Iterator[Change]:
        inserted: dict[int, list[BucketBytes]] = {}
        for (group, bucket), has in self._buckets.unlike.items():
            if group in self._groups.unlike:
                continue  # the whole group comes or goes
            actions = self._buckets.wanted((group, bucket))
            if actions is not None:
                inserted.setdefault(group, []).append(BucketBytes(bucket, actions))
            if has is not None and (sweep or actions is not None):
                yield Change((messages.bucket_remove(group, bucket),), Kind.BUCKET, (group, bucket), None)
        for group, buckets in inserted.items():
            yield from (_insert(group, bucket) for bucket in buckets) if finely else (_insert(group, *buckets),)

    def _group_deletes(self) -> Iterator[Change]:
        for group in self._groups.unlike:
            if self._groups.wanted(group) is None:
                yield Change((messages.group_delete(group),), Kind.GROUP, group, None)

    def _flow_adds(self) -> Iterator[Change]:
        flows, add = self._flows, messages.flow_add
        for name in flows.unlike:
            contents = flows.wanted(name)
            if contents is not None:
                yield Change((add(name, contents),), Kind.FLOW, name, contents)

    def _flow_deletes(self) -> Iterator[Change]:
        for name in self._flows.unlike:
            if self._flows.wanted(name) is None:
                yield Change((messages.flow_delete(name),), Kind.FLOW, name, None)

    def _meter_changes(self) -> Iterator[Change]:
        for meter, has in self._meters.unlike.items():
            figures = self._meters.wanted(meter)
            if figures is not None:
                make = messages.meter_add if has is None else messages.meter_modify
                yield Change((make(meter, *figures),), Kind.METER, meter, figures)

    def _meter_deletes(self) -> Iterator[Change]:
        for meter in self._meters.unlike:
            if self._meters.wanted(meter) is None and meter not in self._meter_uses:
                yield Change((messages.meter_delete(meter),), Kind.METER, meter, None)

    def _zone_takings(self) -> Iterator[Change]:
        """Empty the zones that somebody else gets, as soon as nobody uses them."""
        taken = {zone: has for zone, has in self._zones.unlike.items() if self._zones.wanted(zone) is not None}
        if any(has is not None for has in taken.values()):
            for name, has in self._flows.unlike.items():
                if has is not None and tracked(has) in taken:
                    yield Change((messages.flow_delete(name),), Kind.FLOW, name, None)
        for zone in taken:
            yield Change((messages.zone_flush(zone),), Kind.ZONE, zone, None)

    def _zone_changes(self, sweep: bool) -> Iterator[Change]:
        """Empty the zones that somebody had: what was on its way when their flows went may have come after."""
        for zone, has in self._zones.unlike.items():
            used = self._zones.wanted(zone)
            if sweep or used is not None:
                yield Change((messages.zone_flush(zone),) if has is not None else (), Kind.ZONE, zone, used)

    def _begun_changes(self, sweep: bool) -> Iterator[Change]:
        """They come and go with flows: no message makes them."""
        for name in self._begun.unlike:
            target = self._begun.wanted(name)
            if sweep or target is not None:
                yield Change((), Kind.BEGUN, name, target)

    def _cuts(self, changes: Sequence[Change]) -> tuple[Cut, ...]:
        """What these changes leave without a flow that would begin it; but not where the whole zone is emptied."""
        has = {change.name: self._begun.on_switch(change.name) for change in changes}
        gone = {
            name: target for name, target in has.items() if target is not None and name.zone not in self._zones.unlike
        }
        return tuple(cuts(gone, {change.name: change.value for change in changes if change.value is not None}))

    # What the switch has

    def confirm(self, changes: Iterable[Change]) -> None:
        """The switch has done these changes."""
        for _, kind, name, value in changes:
            if kind == Kind.GROUP:
                self._saw_group(name, value)
            elif kind == Kind.BUCKET and value is not None:
                for bucket, actions in value:
                    self._buckets.saw((name, bucket), actions)
            else:
                self._claims[kind].saw(name, value)

    def _saw_group(self, group: int, buckets: tuple[BucketBytes, ...] | None) -> None:
        """The group has exactly these buckets now, or is gone."""
        self._groups.saw(group, None if buckets is None else _PLAIN)
        for name in [name for name in self._buckets.unlike if name[0] == group]:
            del self._buckets.unlike[name]
        if buckets is not None:
            there = dict(buckets)
            for bucket in there.keys() | self._members.get(group, ()):
                self._buckets.saw((group, bucket), there.get(bucket))

    def adopt(
        self, flows: Mapping[bytes, bytes], groups: Iterable[GroupBytes] | None, meters: Iterable[MeterFigures]
    ) -> None:
        """The switch has exactly this: what a readback found on a new connection.

        ``groups`` None: it can't tell its groups; then all wanted are sent whole, and what else there may be is let be.
        """
        self._flows.saw_all(flows)
        translating = {name: its for name, contents in flows.items() if (its := translation(contents)) is not None}
        tracking = {zone: name for name, contents in flows.items() if (zone := tracked(contents)) is not None}
        users = {zone: _user(read_conditions(match_of(name))) for zone, name in tracking.items()}
        self._zones.saw_all(dict.fromkeys((its.zone for its in translating.values()), 0) | users)
        self._begun.saw_all(dict(filter(None, (begun_on(name, flows[name]) for name in translating))))
        self._meters.saw_all({meter.id: meter.figures or (-1, -1, False) for meter in meters})
        found = {group.id: group.buckets for group in groups or ()}
        self._groups.saw_all({group: _FOREIGN if buckets is None else _PLAIN for group, buckets in found.items()})
        there = {(group, bucket): actions for group, buckets in found.items() for bucket, actions in buckets or ()}
        self._buckets.saw_all(there)
        for name in [name for name in self._buckets.unlike if found.get(name[0]) is None]:
            del self._buckets.unlike[name]

    # Who is behind it

    def owners_of(self, change: Change) -> Sequence[Owner]:
        """Whose facts a change carries; none for one that only removes."""
        if change.value is None:
            return ()
        if change.kind == Kind.FLOW:
            return (self._held[change.value[:_COOKIE]].owner,)
        if change.kind == Kind.BUCKET:
            names = {(change.name, bucket): actions for bucket, actions in change.value}
            return self._claimants(Kind.BUCKET, names)
        return self._claimants(change.kind, {change.name: _PLAIN if change.kind == Kind.GROUP else change.value})

    def _claimants(self, kind: int, values: Mapping[Any, Any]) -> Sequence[Owner]:
        """The owners that claim one of these values. Walks all claims: for errors only."""
        return tuple(
            held.owner
            for held in self._held.values()
            if any(this == kind and values.get(name) == value for this, name, value in _triples(held.items))
        )

    def _clashes(self) -> Iterator[Clash]:
        contested = [(kind, name) for kind, claims in enumerate(self._claims) for name in claims.contested]
        self._clash_seen = {clash: self._clash_seen.get(clash, self._now()) for clash in contested}
        for kind, name in contested:
            winning, *others = self._claims[kind].claimed(name)
            losing = [value for value in others if kind != Kind.FLOW or value[_COOKIE:] != winning[_COOKIE:]]
            losers = tuple(owner for value in losing for owner in sorted(self._side(kind, name, value)))
            if losers:
                winner = min(self._side(kind, name, winning))
                yield Clash(describe(kind, name), winner, losers, self._clash_seen[kind, name])

    def _side(self, kind: int, name: Any, value: Any) -> Sequence[Owner]:
        if kind == Kind.FLOW:
            return (self._held[value[:_COOKIE]].owner,)
        return self._claimants(kind, {name: value})


def _insert(group: int, *buckets: BucketBytes) -> Change:
    return Change(tuple(messages.buckets_insert(group, buckets)), Kind.BUCKET, group, buckets)


def _triples(items: tuple[Any, ...]) -> Iterator[tuple[int, Any, Any]]:
    parts = iter(items)
    return zip(parts, parts, parts, strict=True)


def _encode(number: bytes, facts: Iterable[Fact]) -> tuple[Any, ...]:
    """Kind, name and value of each thing that the facts claim, one after the other."""
    claims: dict[tuple[int, Any, Any], None] = {}
    for fact in facts:
        if isinstance(fact, Flow):
            name = flow_name(fact.table, fact.priority, fact.match)
            contents = flow_contents(number, fact.actions, fact.goto)
            if len(name) + len(contents) > _LONGEST:
                raise ValueError(f"a flow of {len(name) + len(contents)} bytes; a message holds {_LONGEST}")
            claims[Kind.FLOW, name, contents] = None
            _imply(claims, fact.actions)
            _imply_connections(claims, fact, number)
        elif isinstance(fact, Bucket):
            actions = encode_actions(fact.actions)
            if len(actions) > _LONGEST:
                raise ValueError(f"a bucket of {len(actions)} bytes; a message holds {_LONGEST}")
            claims[Kind.BUCKET, (_id(fact.group), _id(fact.id)), actions] = None
            _imply(claims, fact.actions)
        elif isinstance(fact, Clause):
            claims[Kind.CLAUSE, flow_name(fact.table, fact.priority, fact.match), conjunction(fact)] = None
        elif isinstance(fact, Group):
            claims[Kind.GROUP, _id(fact.id), _PLAIN] = None
        elif isinstance(fact, Meter):
            number_of = fact.id if fact.id == ALL_PUNTED else _id(fact.id)
            claims[Kind.METER, number_of, (_id(fact.rate), _id(fact.burst), fact.bits)] = None
        elif isinstance(fact, TunnelPort):
            claims[Kind.TUNNEL, fact.name, Tunnel(fact.type, fact.local, FLOW)] = None
        elif isinstance(fact, PeerPort):
            claims[Kind.TUNNEL, fact.name, Tunnel(fact.type, fact.local, fact.remote, fact.ipsec)] = None
        elif isinstance(fact, InternalPort):
            claims[Kind.TUNNEL, fact.name, Tunnel("internal")] = None
        elif isinstance(fact, PatchPort):
            claims[Kind.PATCH, fact.name, Patch(fact.peer, fact.bridge)] = None
    return tuple(chain.from_iterable(claims))


def _id(number: int) -> int:
    """:raises ValueError: not a number that OpenFlow lets us choose."""
    if not 0 <= number <= _LARGEST_ID:
        raise ValueError(f"{number}: not within 0 … {_LARGEST_ID:#x}")
    return number


def _imply(claims: dict[tuple[int, Any, Any], None], actions: Sequence[Action]) -> None:
    for action in actions:
        if isinstance(action, OutputTo):
            claims[Kind.GROUP, _id(action.group), _PLAIN] = None
        elif isinstance(action, ApplyMeter):
            claims[Kind.METER_USE, action.meter, True] = None
        elif isinstance(action, Clone):
            _imply(claims, action.actions)


def _imply_connections(claims: dict[tuple[int, Any, Any], None], flow: Flow, owner: bytes) -> None:
    for action in flow.actions:
        if not isinstance(action, Track) or isinstance(action.zone, Bits):
            continue
        if action.translate is None:
            fields = zip(flow.match.shape.fields, flow.match.values, strict=True)
            claims[Kind.ZONE, action.zone, _user((field, value, mask) for (field, mask), value in fields)] = None
        elif action.commit:
            claims[Kind.ZONE, action.zone, 0] = None
            if (it := begun(flow, action, owner)) is not None:
                claims[Kind.BEGUN, *it] = None


def _user(conditions: Iterable[tuple[Field, int, int]]) -> int:
    """Whose connections a flow finds that these must meet: the key of the port from which packets come, or to which they go."""
    return next((value for field, value, mask in conditions if mask and field in _PORT), 0)


def describe(kind: int, name: Any) -> str:
    """What a change or claim is about, for people."""
    if kind == Kind.FLOW:
        table, priority = table_and_priority(name)
        return f"flow table={table},priority={priority},match={name[24:].hex()}"
    return f"{Kind.NAMES[kind]} {name}"
