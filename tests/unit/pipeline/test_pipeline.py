"""The pipeline's contract: tables refuse what they don't state, and lists of apps that can't work are refused whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonflow.apps import APPS
from dragonflow.apps.base import App, renders
from dragonflow.controller.view import View
from dragonflow.model import LogicalPort
from dragonflow.pipeline import DESTINATION, NETWORK, Bits, Stage, Table, match, port_masks
from dragonflow.pipeline.check import PipelineError, check
from dragonflow.pipeline.document import document
from dragonflow.pipeline.groups import GroupKind, group_id

ROOT = Path(__file__).parents[3]

LAST = Table("last", Stage.DELIVERY, purpose="The end.", matches=(DESTINATION,))
FIRST = Table("first", Stage.CLASSIFICATION, purpose="The start.", matches=(NETWORK, "eth_dst"), next=(LAST,))


def app(name: str, *tables: Table, places: str = "", follows: tuple[str, ...] = ()) -> App:
    attributes = {table.name: table for table in tables}
    made: App = type("Made", (App,), {"name": name, "places": places, "follows": follows, **attributes})()
    return made


def test_the_committed_document_is_current() -> None:
    assert (ROOT / "docs" / "pipeline.md").read_text() == document(APPS), (
        "run: python -m dragonflow.apps > docs/pipeline.md"
    )


def test_a_flow_that_keeps_the_contract() -> None:
    flow = FIRST.flow(5, match((NETWORK, 7), eth_dst="02:00:00:00:00:01"), goto=LAST)
    assert (flow.table, flow.goto) == (0, 192)


def test_a_stray_match_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="table first: its contract doesn't let flows match eth_src"):
        FIRST.flow(5, match(eth_src="02:00:00:00:00:01"))


def test_bits_beside_the_named_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="metadata"):
        FIRST.flow(5, match((Bits("metadata", 24, 1), 1)))


def test_a_way_that_is_not_in_the_contract_is_refused() -> None:
    other = Table("other", Stage.SWITCHING, purpose="Elsewhere.")
    with pytest.raises(ValueError, match="no way to other"):
        FIRST.flow(5, match(), goto=other)


def test_ways_lead_forward() -> None:
    with pytest.raises(ValueError, match="later table"):
        Table("back", Stage.DELIVERY, slot=1, purpose="Backwards.", miss=LAST)
    with pytest.raises(ValueError, match="slot 8"):
        Table("far", Stage.DELIVERY, slot=8, purpose="Nowhere.")


@pytest.mark.parametrize(
    ("apps", "complaint"),
    [
        ((app("a", FIRST), app("a", LAST)), "two apps are called a"),
        ((app("a", FIRST),), "first leads to last, which is no app's"),
        ((app("a", LAST),), "no app has table 0"),
        (
            (app("a", FIRST, LAST, Table("again", Stage.CLASSIFICATION, purpose="Twice.")),),
            "tables first and again are both number 0",
        ),
        ((app("a", FIRST, LAST, Table("lost", Stage.SWITCHING, purpose="Lost.")),), "no way leads to table lost"),
        ((app("a", places="x"), app("b", places="x")), "two apps place x"),
        ((app("a", places="x", follows=("b",)), app("b", places="y", follows=("a",))), "places could be cyclic"),
        ((app("a", places="x", follows=("a",)),), "places could be cyclic"),
        ((app("a", places="x", follows=("c",)),), "follows c, which isn't there"),
        ((app("a"), app("b", places="x", follows=("a",))), "follows a, which places nothing"),
    ],
)
def test_apps_that_make_no_pipeline_are_refused(apps: tuple[App, ...], complaint: str) -> None:
    with pytest.raises(PipelineError, match=complaint):
        check(apps)


def test_overlapping_bits_are_refused() -> None:
    with pytest.raises(PipelineError, match="A and B overlap in reg0"):
        check((), (("A", Bits("reg0", 0, 4), "one"), ("B", Bits("reg0", 3, 2), "two")))


def test_the_apps_make_a_pipeline() -> None:
    check(APPS)
    check((app("a", FIRST, LAST),))


def test_two_methods_may_not_render_one_kind() -> None:
    class Twice(App):
        name = "twice"

        @renders(LogicalPort)
        def one(self, port: LogicalPort, view: View):
            yield from ()

        @renders(LogicalPort)
        def other(self, port: LogicalPort, view: View):
            yield from ()

    with pytest.raises(TypeError, match="two methods render LogicalPort"):
        Twice().renderings()


def test_group_ids_are_apart() -> None:
    assert len({group_id(kind, key) for kind in GroupKind for key in (1, 2, (1 << 24) - 1)}) == 12
    with pytest.raises(ValueError, match="24 bits"):
        group_id(GroupKind.FLOOD, 1 << 24)


@given(st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(sorted))
def test_a_range_of_ports_is_few_matches(ends: list[int]) -> None:
    first, last = ends
    blocks = list(port_masks(first, last))
    assert len(blocks) <= 30
    assert sum(0x10000 - mask for _, mask in blocks) == last - first + 1
    for value, mask in blocks:
        assert value & mask == value
        assert first <= value <= value | ~mask & 0xFFFF <= last
    assert len({value for value, _ in blocks}) == len(blocks)
