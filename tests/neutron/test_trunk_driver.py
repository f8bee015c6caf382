"""Trunks under Neutron's API: what each call leaves in the DF DB, and what the leader makes Neutron show."""

from __future__ import annotations

import contextlib
import time
from typing import Any
from unittest import mock

import df_ml2
import pytest
from msgspec.structs import replace
from neutron.db import models_v2
from neutron.objects import trunk as trunk_objects
from neutron.services.trunk import exceptions as trunk_exc
from neutron_lib import exceptions
from neutron_lib.context import get_admin_context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory

from dragonflow.model import Binding, PortStatus
from dragonflow.neutron import db
from dragonflow.neutron.agents import AgentTable
from dragonflow.neutron.repair import Repair
from dragonflow.neutron.source import Plugin
from dragonflow.neutron.survey import Survey
from dragonflow.neutron.trunk import AGAIN, TrunkKeeper
from dragonflow.store.protocol import Delete, Key, Txn

HOST = "binding:host_id"
COMPUTE = {HOST: "h1", "device_owner": "compute:nova", "device_id": "6ec1b1c3-4d6b-4a3b-9f06-3e2d4f3a8f11"}


class TrunkTestCase(df_ml2.DfMl2TestCase):
    """A parent that is bound to h1, and two ports of other networks."""

    def get_additional_service_plugins(self) -> dict[str, str]:
        return {**super().get_additional_service_plugins(), "trunk": "trunk"}

    @property
    def admin(self) -> Any:
        """A context for one call, as each request has its own."""
        return get_admin_context()

    def setUp(self) -> None:
        super().setUp()
        self.core = directory.get_plugin()
        self.plugin = directory.get_plugin("trunk")
        for host in ("h1", "h2"):
            AgentTable().report(self.chassis(host))
        with self.port(is_admin=True, arg_list=tuple(COMPUTE), **COMPUTE) as parent:
            self.parent = parent["port"]
        self.children = []
        for cidr in ("10.1.0.0/24", "10.2.0.0/24"):
            with self.network() as network, self.subnet(network, cidr=cidr) as subnet, self.port(subnet) as child:
                self.children.append(child["port"])
        self.now = 0.0
        self.keeper = TrunkKeeper(self.df.workers.dfdb, lambda: self.now)

    def trunk(self, *children: dict, **fields: object) -> str:
        body = {"port_id": self.parent["id"], "project_id": "p", "sub_ports": self.subports(*children), **fields}
        return self.plugin.create_trunk(self.admin, {"trunk": body})["id"]

    def subports(self, *children: dict) -> list[dict]:
        tags = {child["id"]: 101 + number for number, child in enumerate(self.children)}
        return [
            {"port_id": it["id"], "segmentation_type": "vlan", "segmentation_id": tags[it["id"]]} for it in children
        ]

    def part(self, port: dict) -> tuple:
        row = self.port_row(port)
        return row.trunk, row.parent, row.vlan, row.chassis, row.standby

    def settle(self) -> int:
        return self.keeper.settle([*db.trunks_now(self.admin, "df")], db.former_children(self.admin, "df"))

    def neutron(self, port: dict) -> dict:
        return self.core.get_port(self.admin, port["id"])

    def status(self, trunk: str) -> str:
        return self.plugin.get_trunk(self.admin, trunk)["status"]

    def say(self, port: dict, status: str, host: str = "h1") -> None:
        """The host says so, and the leader believes it."""
        generation = db.generation(self.admin, port["id"])
        self.put(
            PortStatus(id=port["id"], chassis=host, generation=generation, status=status, revision=1, at=time.time())
        )
        # Not by the plugin: to tell of trunks it reads with a second context, and on the one connection that SQLite has here the
        # end of that undoes what the first has written.
        with db_api.CONTEXT_WRITER.using(context := self.admin):
            context.session.query(models_v2.Port).filter_by(id=port["id"]).update({"status": status})


class TestRows(TrunkTestCase):
    def test_parent_and_children_appear_and_go(self):
        one, two = self.children
        trunk = self.trunk(one)
        self.work()
        assert self.part(self.parent) == (trunk, None, None, "h1", ())
        assert self.part(one) == (None, self.parent["id"], 101, "h1", ())
        assert self.row(Binding, one["id"], "host:h1").network == one["network_id"]
        self.plugin.add_subports(self.admin, trunk, {"sub_ports": self.subports(two)})
        self.work()
        assert self.part(two) == (None, self.parent["id"], 102, "h1", ())
        self.plugin.remove_subports(self.admin, trunk, {"sub_ports": [{"port_id": one["id"]}]})
        self.work()
        assert self.part(one) == (None, None, None, None, ())
        assert ("Binding", one["id"]) not in self.ids("host:*")
        self.plugin.delete_trunk(self.admin, trunk)
        self.work()
        assert self.part(two) == self.part(one)
        assert self.part(self.parent) == (None, None, None, "h1", ())
        assert db.waiting(get_admin_context()) == set()

    def test_an_entry_stands_and_falls_with_the_change(self):
        trunk, child = self.trunk(), self.children[0]["id"]
        self.work()
        context = self.admin
        with contextlib.suppress(RuntimeError), db_api.CONTEXT_WRITER.using(context):
            fields = {"trunk_id": trunk, "port_id": child, "segmentation_type": "vlan", "segmentation_id": 5}
            trunk_objects.SubPort(context=context, **fields).create()
            assert (child,) in context.session.query(db.JournalEntry.object_id).all()
            raise RuntimeError
        assert db.waiting(get_admin_context()) == set()

    def test_children_follow_their_parent_at_once_also_in_a_live_migration(self):
        (one, _), parent = self.children, self.parent["id"]
        self.trunk(one)
        self.core.create_port_binding(
            self.admin, parent, {"binding": {"host": "h2", "vnic_type": "normal", "profile": {}}}
        )
        self.work()
        assert self.part(one)[3:] == self.part(self.parent)[3:] == ("h1", ("h2",))
        assert not self.row(Binding, one["id"], "host:h2").active
        self.settle()
        commit, seen = self.core._commit_port_binding, []

        def between(*args, **kwargs):
            """ML2 has unbound the parent from h1, and not yet turned to h2."""
            self.settle()
            self.work()
            seen.append((self.neutron(one)[HOST], self.part(one)[3:], self.part(self.parent)[3:]))
            return commit(*args, **kwargs)

        with mock.patch.object(self.core, "_commit_port_binding", side_effect=between):
            self.core.activate(self.admin, "h2", parent)
        assert seen == [("h1", *(("h1", ("h2",)),) * 2)]
        self.work()
        assert self.part(one)[3:] == self.part(self.parent)[3:] == ("h2", ())
        self.core.update_port(self.admin, parent, {"port": {HOST: ""}})
        self.work()
        assert self.part(one)[3:] == (None, ())
        assert ("Binding", one["id"]) not in self.ids("host:*")

    def test_repair_finds_what_is_wrong_about_children(self):
        one = self.children[0]
        self.trunk(one)
        self.work()
        row = self.port_row(one)
        for source in (Plugin, Survey):
            for wrong in (replace(row, parent=None), replace(row, vlan=7), replace(row, chassis="h2")):
                self.put(wrong)
                report = Repair(self.df.workers.dfdb, source()).run(fix=True)
                assert ("LogicalPort", row.id) in {(it.kind, it.id) for it in report.findings}
                assert report.clean
                assert self.port_row(one) == row
            self.store.commit(Txn((Delete(Key("host:h1", "Binding", row.id)),)))
            report = Repair(self.df.workers.dfdb, source()).run(fix=True)
            assert {(it.kind, it.id) for it in report.findings} == {("Binding", row.id)}
            assert Repair(self.df.workers.dfdb, source()).run(fix=False).findings == ()

    def test_an_inherited_tag_is_that_of_the_childs_network(self):
        vlan = {
            "provider:network_type": "vlan",
            "provider:physical_network": "physnet1",
            "provider:segmentation_id": 77,
        }
        with (
            self.network(as_admin=True, arg_list=tuple(vlan), **vlan) as network,
            self.subnet(network, cidr="10.3.0.0/24") as subnet,
            self.port(subnet) as child,
        ):
            trunk = self.trunk()
            inherited = [{"port_id": child["port"]["id"], "segmentation_type": "inherit"}]
            self.plugin.add_subports(self.admin, trunk, {"sub_ports": inherited})
            self.work()
            assert self.part(child["port"])[:3] == (None, self.parent["id"], 77)

    def test_a_tag_is_given_once(self):
        trunk = self.trunk(self.children[0])
        twice = self.subports(self.children[1])
        twice[0]["segmentation_id"] = 101
        with pytest.raises(trunk_exc.DuplicateSubPort):
            self.plugin.add_subports(self.admin, trunk, {"sub_ports": twice})


class TestNeutron(TrunkTestCase):
    def test_children_are_bound_to_their_parents_host_and_let_go(self):
        one, two = self.children
        trunk = self.trunk(one)
        assert self.settle() == 1
        shown = self.neutron(one)
        assert (shown[HOST], shown["binding:vif_type"], shown["device_owner"]) == ("h1", "ovs", "trunk:subport")
        assert self.settle() == 0
        self.core.update_port(self.admin, self.parent["id"], {"port": {HOST: "h2"}})
        assert self.settle() == 1
        assert self.neutron(one)[HOST] == "h2"
        self.plugin.add_subports(self.admin, trunk, {"sub_ports": self.subports(two)})
        self.plugin.remove_subports(self.admin, trunk, {"sub_ports": [{"port_id": one["id"]}]})
        assert self.settle() == 2
        assert (self.neutron(one)[HOST], self.neutron(one)["device_owner"], self.neutron(two)[HOST]) == ("", "", "h2")
        self.core.update_port(self.admin, self.parent["id"], {"port": {HOST: ""}})
        assert self.settle() == 1
        shown = self.neutron(two)
        assert (shown[HOST], shown["device_owner"]) == ("", "trunk:subport")
        self.plugin.delete_trunk(self.admin, trunk)
        assert self.settle() == 1
        assert self.neutron(two)["device_owner"] == ""
        assert self.settle() == 0

    def test_the_trunks_status_is_true(self):
        one, two = self.children
        trunk = self.trunk(one, two)
        assert self.status(trunk) == "DOWN"
        while self.settle():
            pass
        assert self.status(trunk) == "DOWN", "its parent doesn't work"
        self.say(self.parent, "ACTIVE")
        self.settle()
        assert self.status(trunk) == "BUILD"
        self.say(one, "ACTIVE")
        self.settle()
        assert self.status(trunk) == "BUILD"
        self.say(two, "DOWN")
        self.settle()
        assert self.status(trunk) == "DEGRADED"
        self.say(two, "ACTIVE")
        self.settle()
        assert self.status(trunk) == "ACTIVE"
        self.core.update_port(self.admin, two["id"], {"port": {"admin_state_up": False}})
        self.settle()
        assert (self.neutron(two)["status"], self.status(trunk)) == ("DOWN", "ACTIVE"), "that was wanted so"
        self.say(self.parent, "DOWN")
        self.settle()
        assert self.status(trunk) == "DOWN"

    def test_a_child_that_cannot_be_bound_is_told_and_harms_no_other(self):
        one, two = self.children
        bind = self.df.bind_port
        with mock.patch.object(self.df, "bind_port", lambda ctx: ctx.current["id"] == one["id"] or bind(ctx)):
            trunk = self.trunk(one, two)
            self.settle()
        self.say(self.parent, "ACTIVE")
        self.settle()
        self.work()
        assert self.status(trunk) == "ERROR"
        assert self.part(one)[3] is None, "nowhere"
        assert self.part(two)[3] == "h1"
        self.plugin.remove_subports(self.admin, trunk, {"sub_ports": [{"port_id": one["id"]}]})
        self.say(two, "ACTIVE")
        self.settle()
        assert self.status(trunk) == "ACTIVE"

    def test_what_neutron_refuses_is_tried_again_later(self):
        self.trunk(*self.children)
        update, refused = self.core.update_port, self.children[0]["id"]

        def refuse(context, port, body):
            if port == refused:
                raise exceptions.Conflict()
            return update(context, port, body)

        with mock.patch.object(self.core, "update_port", side_effect=refuse) as tried:
            assert (self.settle(), tried.call_count) == (1, 2)
            assert (self.settle(), tried.call_count) == (0, 2)
        self.now += AGAIN
        assert self.settle() == 1

    def test_ports_of_other_drivers_are_left_alone(self):
        self.trunk(self.children[0])
        foreign = [*db.trunks_now(self.admin, "other")]
        assert foreign[0].parent.foreign
        assert self.keeper.settle(foreign, db.former_children(self.admin, "other")) == 0
        assert self.neutron(self.children[0])[HOST] == ""
