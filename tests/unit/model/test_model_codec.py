import contextlib
import gc
import json
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonflow.model import (
    KINDS,
    LAST_TURN,
    AddressPair,
    Corrupt,
    FixedIP,
    Holder,
    LogicalPort,
    NewerSchema,
    Row,
    UnknownKind,
    decode,
    encode,
)
from dragonflow.testing import worlds

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))

st.register_type_strategy(
    Holder,
    st.builds(
        lambda chassis, port, address, **fields: Holder(
            id=Holder.name(chassis, port, address), chassis=chassis, port=port, address=address, **fields
        ),
        chassis=st.text(),
        port=st.text(),
        address=st.ip_addresses().map(str),
        network=st.text(),
        mac=st.text(),
        turn=st.integers(0, LAST_TURN),
        at=st.floats(allow_nan=False, allow_infinity=False),
    ),
)

PORT = LogicalPort(
    id="p1",
    key=7,
    network="n1",
    mac="fa:16:3e:00:00:01",
    fixed_ips=(FixedIP("s4", "10.0.0.5"), FixedIP("s6", "2001:db8::5")),
    address_pairs=(AddressPair("10.9.0.0/24"),),
    chassis="host1",
    generation=2,
    revision=11,
)


def changed(**fields: object) -> bytes:
    return json.dumps(json.loads(encode(PORT)) | fields).encode()


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_kind_comes_back_as_it_was_or_makes_no_sense(kind: type[Row]) -> None:
    @given(st.from_type(kind))
    def comes_back(row: Row) -> None:
        with contextlib.suppress(Corrupt):
            assert decode(kind.__name__, row.id, encode(row)) == row

    comes_back()


@pytest.mark.parametrize("world", worlds.STATES)
def test_rows_that_make_sense_come_back(world: str) -> None:
    for row in worlds.STATES[world]().rows:
        assert decode(type(row).__name__, row.id, encode(row), row.scope) == row


@pytest.mark.parametrize(
    "changed",
    [
        {"key": 0},
        {"key": 1 << 30},
        {"mac": "fa:16:3E:00:00:01"},
        {"mac": "fa:16:3e:00:00:01\n"},
        {"fixed_ips": [{"subnet": "s", "ip": "10.0.0.256"}]},
        {"fixed_ips": [{"subnet": "s", "ip": "fe80::1%eth0"}]},
        {"address_pairs": [{"ip": "10.0.0.0/33", "mac": None}]},
        {"address_pairs": [{"ip": "10.0.0.9", "mac": "x"}]},
        {"vlan": 4096},
    ],
)
def test_a_port_that_makes_no_sense_is_refused(changed: dict[str, object]) -> None:
    """So it counts as absent; it would have ended what goes over all ports, and so harmed others."""
    with pytest.raises(Corrupt, match="LogicalPort p1: "):
        decode("LogicalPort", "p1", json.dumps(json.loads(encode(PORT)) | changed).encode())


def test_the_stored_form_is_stable() -> None:
    assert json.loads(encode(PORT))["schema"] == "LogicalPort/1"
    assert json.loads(encode(PORT))["fixed_ips"][1] == {"subnet": "s6", "ip": "2001:db8::5"}


def test_a_newer_schema_is_refused_by_name() -> None:
    with pytest.raises(NewerSchema, match=r"LogicalPort p1: schema 2, this version knows up to 1; upgrade"):
        decode("LogicalPort", "p1", changed(schema="LogicalPort/2", later="x"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "truncated"),
        (b"\xff\xfe", "malformed"),
        (b"[]", "array"),
        (changed(schema="Subnet/1"), "schema"),
        (changed(schema=3), "schema"),
        (changed(colour="red"), "unknown field `colour`"),
        (changed(key="seven"), r"\$\.key"),
        (changed(fixed_ips=[{"subnet": "s4"}]), r"\$\.fixed_ips"),
        (changed(id="p2"), "calls itself 'p2'"),
    ],
)
def test_what_is_no_row_is_refused_with_the_field(data: bytes, says: str) -> None:
    with pytest.raises(Corrupt, match=f"LogicalPort p1: .*{says}"):
        decode("LogicalPort", "p1", data)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnknownKind, match="Gadget g1: unknown kind"):
        decode("Gadget", "g1", b"{}")


@given(st.binary())
def test_any_bytes_give_a_row_or_a_clear_refusal(data: bytes) -> None:
    with pytest.raises((Corrupt, NewerSchema)):
        decode("LogicalPort", "p1", data)


def test_values_that_many_rows_share_are_held_once() -> None:
    one, two = (decode("LogicalPort", "p1", encode(PORT)) for _ in range(2))
    assert isinstance(one, LogicalPort)
    assert isinstance(two, LogicalPort)
    assert one.network is two.network
    assert one.chassis is two.chassis


def mac(number: int) -> str:
    return f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}"


def test_ten_thousand_ports_fit_into_fifteen_megabytes() -> None:
    data = [
        (
            f"p{n}",
            encode(
                LogicalPort(
                    id=f"p{n}", key=n + 1, network="n1", mac=f"fa:16:3e:00:{n >> 8:02x}:{n & 255:02x}", revision=1
                )
            ),
        )
        for n in range(10_000)
    ]
    gc.collect()
    tracemalloc.start()
    rows = [decode("LogicalPort", name, row) for name, row in data]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 10_000
    assert used < 15e6


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "h2/p/10.0.0.9"},
        {"id": "h1/q/10.0.0.9"},
        {"address": "10.0.0.8"},
        {"id": "h1/p/fd00::0009", "address": "fd00::0009"},
        {"id": "h1/p/nowhere", "address": "nowhere"},
        {"turn": -1},
        {"turn": LAST_TURN + 1},
    ],
)
def test_a_holder_that_would_stand_in_the_way_of_others_is_refused(changed: dict[str, object]) -> None:
    good = {
        "schema": "Holder/1",
        "id": "h1/p/10.0.0.9",
        "chassis": "h1",
        "network": "n",
        "port": "p",
        "address": "10.0.0.9",
        "mac": "fa:16:3e:00:00:01",
        "turn": LAST_TURN,
        "at": 1.0,
    }
    assert decode("Holder", "h1/p/10.0.0.9", msgspec.json.encode(good), "holds:h1")
    bad = {**good, **changed}
    with pytest.raises(Corrupt):
        decode("Holder", str(bad["id"]), msgspec.json.encode(bad), "holds:h1")
