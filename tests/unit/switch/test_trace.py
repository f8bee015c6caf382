"""Traces as Open vSwitch 3.1 writes them; tests/dataplane asks a real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dragonflow.switch.trace import Out, parse
from dragonflow.switch.unixctl import CommandFailed, Unixctl, Unreachable, find

HEAD = """Flow: arp,in_port=1,dl_src=02:00:00:00:00:0b

bridge("br-int")
----------------
 0. in_port=1, priority 20, cookie 0xdf118f8abc032923
    set_field:0xb->reg6
    goto_table:96
"""
TAIL = """
Final flow: unchanged
Megaflow: recirc_id=0,eth,arp,in_port=1
Datapath actions: 3
"""


@pytest.mark.parametrize(
    ("steps", "outputs"),
    [
        ("    output:2\n", (Out(2),)),
        ("    drop\n", ()),
        ("    output:1\n     >> skipping output to input port\n", ()),
        ("    output:9\n     >> Nonexistent output port\n    output:2\n", (Out(2),)),
        (
            "    set_field:0x1389->tun_id\n    set_field:192.0.2.2->tun_dst\n    output:3\n     -> output to native tunnel\n"
            "     >> native tunnel routing failed\n",
            (Out(3, 5001, "192.0.2.2"),),
        ),
        ("    set_field:2001:db8::2->tun_ipv6_dst\n    output:3\n", (Out(3, None, "2001:db8::2"),)),
        ("    push_vlan:0x8100\n    set_field:4196->vlan_vid\n    output:5\n", (Out(5, vlan=100),)),
        ("    set_field:4196->vlan_vid\n    pop_vlan\n    output:5\n", (Out(5),)),
        ('    output:5\n\n    bridge("br-ex")\n    ----\n     0. priority 0\n            output:1\n', (Out(5),)),
        ("    group:16777217\n     bucket 11\n            resubmit(,192)\n            output:4\n", (Out(4),)),
        (
            "    group:16777217\n    bucket 53\n            set_field:ANY->in_port\n            push_vlan:0x8100\n"
            "            set_field:4198->vlan_vid\n            output:4\n    bucket 12\n            output:5\n",
            (Out(4, vlan=102), Out(5)),
        ),
        ("    pop_vlan\n    output:2\n", (Out(2),)),
    ],
)
def test_outputs_are_those_that_reach_a_port(steps: str, outputs: tuple[Out, ...]) -> None:
    traced = parse(f"{HEAD}96. dl_dst=02:00:00:00:00:0d, priority 40, cookie 0xdff060fc74bbe049\n{steps}{TAIL}")
    assert traced.outputs == outputs
    assert traced.tables == (0, 96)
    assert traced.flows[-1] == "dl_dst=02:00:00:00:00:0d, priority 40"
    assert not traced.foreign


def test_a_flow_without_our_cookie_is_somebody_elses() -> None:
    for cookie in ("", ", cookie 0x1", ", cookie 0xdf1"):
        assert parse(f"{HEAD}96. arp, priority 60000{cookie}\n    drop\n{TAIL}").foreign


def test_an_answer_that_is_no_trace_has_no_way() -> None:
    assert parse("").tables == ()
    assert parse("nonsense\n").outputs == ()


Answer = Callable[[dict[str, object]], bytes]


@asynccontextmanager
async def vswitchd(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Who answers each question as the test says; an empty answer hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder, text = json.JSONDecoder(), ""
        while data := await reader.read(1 << 16):
            text += data.decode()
            while text:
                question, end = decoder.raw_decode(text)
                text = text[end:]
                if not (reply := answer(question)):
                    writer.close()
                    return
                writer.write(reply)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield


def echo(question: dict[str, object]) -> bytes:
    reply = {"id": question["id"], "result": str(question["params"]), "error": None}
    return json.dumps(reply).encode() + b"\n"


async def test_answers_come_in_the_order_of_the_questions(tmp_path: Path) -> None:
    async with vswitchd(tmp_path / "ovs-vswitchd.ctl", echo):
        unixctl = Unixctl(f"unix:{tmp_path}/db.sock")
        many = [["br-int", str(number)] for number in range(500)]
        assert await unixctl.ask("ofproto/trace", many) == [str(it) for it in many]
        assert await unixctl.ask("ofproto/trace", [["x"]]) == ["['x']"]
        unixctl.close()


async def test_a_refused_command_is_an_answer(tmp_path: Path) -> None:
    def refuse(question: dict[str, object]) -> bytes:
        return json.dumps({"id": question["id"], "error": "Unknown bridge\n"}).encode()

    async with vswitchd(tmp_path / "ovs-vswitchd.ctl", refuse):
        unixctl = Unixctl(f"unix:{tmp_path}/db.sock")
        (answer,) = await unixctl.ask("ofproto/trace", [["x"]])
        assert isinstance(answer, CommandFailed)
        assert str(answer) == "Unknown bridge"
        unixctl.close()


@pytest.mark.parametrize(
    "answer",
    [lambda _: b"", lambda _: b'{"id": 77, "result": "", "error": null}', lambda _: b"[]", lambda _: b" "],
    ids=["hangs up", "another id", "no object", "silence"],
)
async def test_who_does_not_answer_is_unreachable_and_asked_anew_later(tmp_path: Path, answer: Answer) -> None:
    path = tmp_path / "ovs-vswitchd.ctl"
    unixctl = Unixctl(f"unix:{tmp_path}/db.sock", patience=0.1)
    with pytest.raises(Unreachable, match=str(path)):
        await unixctl.ask("ofproto/trace", [["x"]])
    async with vswitchd(path, answer):
        with pytest.raises(Unreachable, match=str(path)):
            await unixctl.ask("ofproto/trace", [["x"]])
    path.unlink(missing_ok=True)
    async with vswitchd(path, echo):
        assert await unixctl.ask("ofproto/trace", [["x"]]) == ["['x']"]
        unixctl.close()


def test_the_socket_is_found_beside_the_database_by_the_daemons_pid(tmp_path: Path) -> None:
    database = f"unix:{tmp_path}/db.sock"
    assert find(database) == tmp_path / "ovs-vswitchd.ctl"
    (tmp_path / "ovs-vswitchd.pid").write_text("42\n")
    assert find(database) == tmp_path / "ovs-vswitchd.ctl"
    (tmp_path / "ovs-vswitchd.42.ctl").touch()
    assert find(database) == tmp_path / "ovs-vswitchd.42.ctl"
    assert find(database, "/elsewhere/x.ctl") == Path("/elsewhere/x.ctl")
    assert find("tcp:127.0.0.1:6640").parent == Path("/run/openvswitch")
