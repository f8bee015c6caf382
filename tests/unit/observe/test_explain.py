import pytest
from typer.testing import CliRunner

from dragonflow.model import (
    Chassis,
    FixedIP,
    FloatingIp,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    RuleClass,
    SecurityGroup,
    SecurityRule,
    worked_out,
)
from dragonflow.observe.explain import Book
from dragonflow.pipeline.facts import Owner
from dragonflow.switch.ledger import cookie

NET = LogicalSwitch(id="n1", key=5, name="blue", network_type="geneve", segmentation_id=77, mtu=1442, revision=1)
PORT = LogicalPort(
    id="p1",
    key=0xC9,
    network="n1",
    name="vm1",
    mac="fa:16:3e:00:00:01",
    fixed_ips=(FixedIP("s", "10.0.0.5"),),
    chassis="h1",
    revision=1,
)
ROWS = [NET, PORT, LogicalRouter(id="r1", key=0x21, name="edge", revision=1), Chassis(id="h1", tunnel_ip="192.0.2.1")]


def line(owner: Owner) -> str:
    return (
        f" cookie={cookie(owner):#x}, duration=5.2s, table=0, n_packets=0, priority=20,in_port=4 "
        "actions=set_field:0xc9->reg6,set_field:0x5/0xffffff->metadata,goto_table:32"
    )


def explained(text: str) -> dict[str, object]:
    found = Book(ROWS).explain(text)
    assert found is not None
    return found


def test_a_flow_leads_to_its_app_and_its_port() -> None:
    entry = explained(line(Owner("classification", "LogicalPort", "p1")))
    assert (entry["table"], entry["app"], entry["kind"], entry["id"]) == (
        "ports",
        "classification",
        "LogicalPort",
        "p1",
    )
    assert entry["object"] == "port vm1 p1 (fa:16:3e:00:00:01 10.0.0.5, on h1)"


def test_a_floating_ip_is_told_by_its_address() -> None:
    row = FloatingIp(id="f1", network="n9", address="203.0.113.5", port="p9", fixed_ip="10.0.0.5", revision=1)
    found = Book([*ROWS, row]).explain(line(Owner("dnat", "FloatingIp", "f1")))
    assert found is not None
    assert found["object"] == "floating IP 203.0.113.5 (for 10.0.0.5)"


def test_the_numbers_in_it_lead_to_what_they_stand_for() -> None:
    entry = explained(line(Owner("classification", "LogicalPort", "p1")))
    assert entry["numbers"] == {"0xc9->reg6": "port vm1 p1", "0x5/0xffffff->metadata": "network blue n1"}


def test_flows_of_networks_and_of_the_host_itself() -> None:
    assert explained(line(Owner("l2", "LogicalSwitch", "n1")))["object"] == "network blue n1 (geneve 77)"
    assert explained(line(Owner("resolution", "Me", "h1")))["object"] == "the host h1 itself"
    assert explained(line(Owner("tunnel", "Chassis", "h1")))["object"] == "chassis h1 (VTEP 192.0.2.1)"


def test_flows_of_routers() -> None:
    entry = explained(
        f" cookie={cookie(Owner('l3', 'LogicalRouter', 'r1')):#x}, table=66, priority=50,ip,reg1=0x21/0xffffff,reg12=0x21 "
        "actions=set_field:0x5/0xffffff->metadata,set_field:0x21/0xffffff->reg1,set_field:0x21->reg12,goto_table:68"
    )
    assert (entry["table"], entry["app"], entry["object"]) == ("routes", "l3", "router edge r1")
    assert entry["numbers"] == {
        "0x5/0xffffff->metadata": "network blue n1",
        "reg1=0x21/0xffffff": "router edge r1",
        "0x21/0xffffff->reg1": "router edge r1",
    }


def test_a_flow_of_many_clauses_leads_to_a_class_of_rules() -> None:
    group = SecurityGroup(id="g1", name="web", revision=1, rules=(SecurityRule("ingress", 4, 6, 80, 80, "g2"),))
    (found,) = (it for it in worked_out([group]) if isinstance(it, RuleClass))
    text = f" cookie=0xdf00, table=3, ip,nw_src=10.0.0.5 actions=conjunction(7,2/3),conjunction({found.number},3/3)"
    entry = Book([*ROWS, group]).explain(text)
    assert entry is not None
    assert (entry["app"], entry["kind"], entry["id"]) == ("ingress", "RuleClass", found.id)
    assert entry["object"] == "ingress rules of security group web g1 for IPv4 and group g2"


def test_a_cookie_of_nobody_is_said_to_be_so() -> None:
    entry = explained("cookie=0x1234, table=3, actions=drop")
    assert (entry["app"], entry["object"]) == (None, None)


def test_a_bare_cookie_will_do() -> None:
    number = f"{cookie(Owner('l2', 'LogicalPort', 'p1')):#x}"
    assert explained(number)["app"] == "l2"


@pytest.mark.parametrize("text", ["OFPST_FLOW reply (OF1.5) (xid=0x2):", "in_port=0x4 actions=drop", ""])
def test_a_line_without_a_cookie_is_no_flow(text: str) -> None:
    assert Book(ROWS).explain(text) is None


def test_input_without_any_cookie_is_refused() -> None:
    from dragonflow.cli.main import app

    result = CliRunner().invoke(app, ["explain", "--store-url", "memory://none", "hello"])
    assert result.exit_code == 1
    assert "no cookie found" in result.stderr
