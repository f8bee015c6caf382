"""Routers under Neutron's API with our service provider: what each call leaves in the DF DB."""

from __future__ import annotations

import df_l3
from msgspec.structs import replace
from neutron_lib import exceptions
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.context import get_admin_context
from neutron_lib.plugins import constants, directory

from dragonflow.model import (
    ROUTER_GATEWAY,
    ExternalNetwork,
    LogicalPort,
    PortStatus,
    Route,
    RouterGateway,
    RouterInterface,
)
from dragonflow.neutron import db
from dragonflow.neutron.repair import Repair
from dragonflow.neutron.source import Plugin
from dragonflow.neutron.status import Neutron, turn, unbound_turn
from dragonflow.neutron.survey import Survey
from dragonflow.store.protocol import Delete, Key, Txn
from dragonflow.testing import founding


class TestRows(df_l3.RouterTestCase):
    def test_a_router_its_interfaces_and_routes_appear_and_go(self):
        with self.router(name="r", as_admin=True) as made, self.subnet() as subnet:
            router, network = made["router"], subnet["subnet"]["network_id"]
            self.work()
            row = self.router_row(router)
            assert (row.key, row.name, row.admin_up, row.interfaces) == (1, "r", True, ())
            info = self._router_interface_action("add", router["id"], subnet["subnet"]["id"], None)
            self.work()
            assert self.router_row(router).interfaces == (RouterInterface(info["port_id"], network),)
            port = self.row(LogicalPort, info["port_id"], f"net:{network}")
            assert (port.router, port.routed_network, port.chassis) == (router["id"], network, None)
            routes = [{"destination": "192.0.2.0/24", "nexthop": "10.0.0.9"}]
            self._update("routers", router["id"], {"router": {"routes": routes, "admin_state_up": False}})
            self.work()
            row = self.router_row(router)
            assert (row.routes, row.admin_up) == ((Route("192.0.2.0/24", "10.0.0.9"),), False)
            self._update("routers", router["id"], {"router": {"routes": []}})
            self._router_interface_action("remove", router["id"], subnet["subnet"]["id"], None)
            self.work()
            assert (self.router_row(router).routes, self.router_row(router).interfaces) == ((), ())
            self._delete("routers", router["id"])
            self.work()
            assert self.ids("router:*") == set()
            assert "KeyOwner" not in {kind for kind, _ in self.ids("keys:router")}
        assert db.pending(get_admin_context()) == 0

    def test_the_entry_stands_in_the_transaction_of_the_change(self):
        seen = []

        def refuse(_resource, _event, _trigger, payload):
            payload.context.session.flush()
            seen.append(payload.context.session.query(db.JournalEntry.kind).all())
            raise exceptions.BadRequest(resource="router", msg="refused")

        with self.router() as made:
            self.work()
            registry.subscribe(refuse, resources.ROUTER, events.PRECOMMIT_UPDATE)
            self._update("routers", made["router"]["id"], {"router": {"name": "new"}}, expected_code=400)
            registry.unsubscribe(refuse, resources.ROUTER, events.PRECOMMIT_UPDATE)
            assert ("router",) in seen[0]
            assert db.pending(get_admin_context()) == 0

    def test_a_port_that_is_deleted_or_taken_away_is_no_interface_any_more(self):
        with self.router() as made, self.subnet() as subnet, self.port(subnet) as port:
            router = made["router"]
            self._router_interface_action("add", router["id"], None, port["port"]["id"])
            self.work()
            assert [each.port for each in self.router_row(router).interfaces] == [port["port"]["id"]]
            self._router_interface_action("remove", router["id"], None, port["port"]["id"])
            self.work()
            assert self.router_row(router).interfaces == ()

    def test_a_gateway_is_its_port_and_whether_it_hides_who_is_behind_it(self):
        with self.router(as_admin=True) as made, self.subnet(cidr="203.0.113.0/24") as outside:
            router, network = made["router"], outside["subnet"]["network_id"]
            self._set_net_external(network)
            self._add_external_gateway_to_router(router["id"], network, as_admin=True)
            self.work()
            row = self.router_row(router)
            port = self.row(LogicalPort, row.gateway.port, f"net:{network}")
            assert (row.interfaces, row.gateway) == ((), RouterGateway(port.id, network, enable_snat=True))
            assert (port.device_owner, port.device_id) == (ROUTER_GATEWAY, router["id"])
            for change, expected in (
                ({"network_id": network, "enable_snat": False}, replace(row.gateway, enable_snat=False)),
                ({}, None),
            ):
                self._update("routers", router["id"], {"router": {"external_gateway_info": change}}, as_admin=True)
                self.work()
                assert self.router_row(router).gateway == expected

    def test_repair_finds_what_was_lost_spoilt_and_left_over(self):
        with self.router() as made, self.subnet() as subnet:
            router = made["router"]
            self._router_interface_action("add", router["id"], subnet["subnet"]["id"], None)
            self.work()
            row = self.router_row(router)
            key = Key(row.scope, "LogicalRouter", row.id)
            orphan = replace(row, id="gone", key=7)
            spoils = {
                "missing": lambda: self.store.commit(Txn((Delete(key),))),
                "stale: interfaces is ()": lambda: self.put(replace(row, interfaces=())),
                "orphan: Neutron has no such object": lambda: self.put(orphan),
            }
            for source in (Plugin, Survey):
                for expected, spoil in spoils.items():
                    spoil()
                    report = Repair(self.df.workers.dfdb, source()).run(fix=True)
                    found = [finding for finding in report.findings if finding.kind == "LogicalRouter"]
                    assert [finding.difference.startswith(expected) for finding in found] == [True], report
                    assert report.clean, report
                    assert self.router_row(router) == row
                    assert Repair(self.df.workers.dfdb, source()).run(fix=False).findings == ()
            self._router_interface_action("remove", router["id"], subnet["subnet"]["id"], None)

    def test_repair_mends_how_gateway_nodes_find_external_networks(self):
        on_physnet = {
            "provider:network_type": "vlan",
            "provider:physical_network": "physnet1",
            "provider:segmentation_id": 7,
        }
        with self.network(as_admin=True, arg_list=tuple(on_physnet), **on_physnet) as made, self.network():
            network = made["network"]["id"]
            self.work()
            self.store.call(founding.found)
            assert self.ids("external") == set()
            self._set_net_external(network)
            self.work()
            key = Key("external", "ExternalNetwork", network)
            row = ExternalNetwork(id=network, physical_network="physnet1")
            orphan = replace(row, id="gone")
            spoils = {
                "missing on external": lambda: self.store.commit(Txn((Delete(key),))),
                "stale on external": lambda: self.put(replace(row, physical_network="physnet2")),
                "orphan: the network does not belong to external": lambda: self.put(orphan),
            }
            for source in (Plugin, Survey):
                for expected, spoil in spoils.items():
                    spoil()
                    report = Repair(self.df.workers.dfdb, source()).run(fix=True)
                    assert [finding.difference for finding in report.findings] == [expected], report
                    assert (report.clean, self.ids("external")) == (True, {("ExternalNetwork", network)})
                    assert self.row(ExternalNetwork, network, "external") == row

    def test_a_router_of_another_provider_is_not_ours(self):
        with self.router() as made:
            self.work()
            router, context = made["router"], get_admin_context()
            manager = directory.get_plugin(constants.L3).l3_driver_controller._stm
            manager.del_resource_associations(context, [router["id"]])
            manager.add_resource_association(context, constants.L3, "single_node", router["id"])
            db.record(context, db.ROUTER_KIND, router["id"], router["id"])
            context.session.commit()
            self.work()
            assert self.router_row(router) is None


class TestStatus(df_l3.RouterTestCase):
    def test_an_interface_is_active_once_its_rows_are_written(self):
        neutron = Neutron()
        with self.router() as made, self.subnet() as subnet:
            router = made["router"]
            mark = neutron.mark()
            port = self._router_interface_action("add", router["id"], subnet["subnet"]["id"], None)["port_id"]
            assert neutron.mark() != mark

            def wanted():
                ((now,),) = ([*neutron.ports([port])],)
                return turn(now, None)

            assert wanted() is None, "the journal has not been worked off"
            mark = neutron.mark()
            self.work()
            assert neutron.mark() != mark
            assert wanted() == "ACTIVE"
            assert neutron.turn(list(neutron.ports([port])), "ACTIVE") == [port]
            assert self._show("ports", port)["port"]["status"] == "ACTIVE"
            assert wanted() is None
            self._update("ports", port, {"port": {"admin_state_up": False}})
            assert wanted() == "DOWN"
            self._router_interface_action("remove", router["id"], subnet["subnet"]["id"], None)

    def test_a_gateway_is_active_while_any_chassis_says_so(self):
        neutron = Neutron()
        with self.subnet() as subnet, self.outside(subnet) as (router, _):
            mark = neutron.mark()
            self.work()
            port = self.router_row(router).gateway.port
            says = PortStatus(id=port, chassis="h1", generation=0, status="ACTIVE", revision=1, at=0.0)

            def now():
                ((found),) = neutron.ports([port])
                return found

            assert (now().gateway, now().routing, now().status, now().ours) == (True, False, "DOWN", False)
            assert unbound_turn(now(), ()) is None
            for other in (replace(says, generation=1), replace(says, status="DOWN")):
                assert unbound_turn(now(), [other]) is None
                assert unbound_turn(now(), [other, says]) == "ACTIVE"
            assert neutron.turn([now()], "ACTIVE") == [port]
            assert self._show("ports", port, as_admin=True)["port"]["status"] == "ACTIVE"
            assert (unbound_turn(now(), [says]), unbound_turn(now(), ())) == (None, "DOWN")
            self._update("ports", port, {"port": {"admin_state_up": False}}, as_admin=True)
            assert unbound_turn(now(), [says]) == "DOWN", "it is switched off"
            self._update("ports", port, {"port": {"admin_state_up": True}}, as_admin=True)
            neutron.turn([now()], "DOWN")
            assert self._show("ports", port, as_admin=True)["port"]["status"] == "DOWN"
            assert unbound_turn(now(), [says]) == "ACTIVE"
            assert neutron.mark() != mark
