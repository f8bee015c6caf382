"""Floating IPs and port forwardings from Neutron's API to rows, and what the hosts say back to Neutron's status."""

from __future__ import annotations

import df_l3
from msgspec.structs import replace
from neutron_lib.api.definitions import floating_ip_port_forwarding as pf_api
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.context import get_admin_context
from neutron_lib.plugins import directory

from dragonflow.model import FloatingIp, LogicalPort, PortForwarding, PortStatus
from dragonflow.neutron import db
from dragonflow.neutron.repair import Repair
from dragonflow.neutron.source import Plugin
from dragonflow.neutron.status import Neutron, floating_turn
from dragonflow.neutron.survey import Survey
from dragonflow.store.protocol import Delete, Key, Txn

FORWARDED = {
    "internal_port_id": None,
    "internal_ip_address": None,
    "internal_port": 22,
    "external_port": 2222,
    "protocol": "tcp",
}

POLICY = {"project_id": "p", "shared": False, "is_default": False, "description": ""}


class TestRows(df_l3.RouterTestCase):
    _further_plugins, _extension_drivers = df_l3.FORWARDING | df_l3.POLICIES, ("port_security", "qos")

    def test_a_floating_ip_appears_moves_and_goes(self):
        with (
            self.subnet() as subnet,
            self.outside(subnet) as (router, outside),
            self.port(subnet) as one,
            self.port(subnet) as two,
        ):
            floating = self._make_floatingip(self.fmt, outside["network_id"], as_admin=True)["floatingip"]
            self.work()
            row = self.floating_row(floating)
            assert (row.address, row.router, row.fixed_port) == (floating["floating_ip_address"], None, None)
            port = self.row(LogicalPort, row.port, f"net:{outside['network_id']}")
            assert (port.is_floating, port.ips) == (True, (row.address,))
            for target in (one["port"], two["port"]):
                self._update("floatingips", floating["id"], {"floatingip": {"port_id": target["id"]}}, as_admin=True)
                self.work()
                row = self.floating_row(floating)
                ip = target["fixed_ips"][0]["ip_address"]
                assert (row.router, row.fixed_port, row.fixed_ip) == (router["id"], target["id"], ip)
            self._delete("ports", two["port"]["id"])
            self.work()
            row = self.floating_row(floating)
            assert (row.router, row.fixed_port, row.fixed_ip) == (None, None, None)
            self._delete("floatingips", floating["id"], as_admin=True)
            self.work()
            assert self.floating_row(floating) is None
        assert db.pending(get_admin_context()) == 0

    def test_the_entry_stands_in_the_transaction_of_the_change(self):
        seen = []

        def look(_resource, _event, _trigger, payload):
            payload.context.session.flush()
            seen.extend(payload.context.session.query(db.JournalEntry.kind).all())

        with self.subnet() as subnet, self.outside(subnet) as (_, outside), self.port(subnet) as port:
            floating = self._make_floatingip(self.fmt, outside["network_id"], as_admin=True)["floatingip"]
            self.work()
            registry.subscribe(look, resources.FLOATING_IP, events.PRECOMMIT_UPDATE)
            update = {"floatingip": {"port_id": port["port"]["id"]}}
            self._update("floatingips", floating["id"], update, as_admin=True)
            registry.unsubscribe(look, resources.FLOATING_IP, events.PRECOMMIT_UPDATE)
            assert ("floatingip",) in seen
            self._delete("floatingips", floating["id"], as_admin=True)

    def test_port_forwardings_are_parts_of_their_floating_ip(self):
        with self.subnet() as subnet, self.outside(subnet) as (router, outside), self.port(subnet) as made:
            context, port = get_admin_context(), made["port"]
            ip = port["fixed_ips"][0]["ip_address"]
            floating = self._make_floatingip(self.fmt, outside["network_id"], as_admin=True)["floatingip"]
            plugin = directory.get_plugin("PORTFORWARDING")
            body = {**FORWARDED, "internal_port_id": port["id"], "internal_ip_address": ip}
            one = plugin.create_floatingip_port_forwarding(context, floating["id"], {pf_api.RESOURCE_NAME: body})
            self.work()
            expected = PortForwarding("tcp", 2222, 2222, port["id"], ip, 22, 22)
            row = self.floating_row(floating)
            assert (row.router, row.fixed_port, row.forwardings) == (router["id"], None, (expected,))
            ranges = {"internal_port_range": "80:89", "external_port_range": "8080:8089", "protocol": "udp"}
            ranges |= {"internal_port_id": port["id"], "internal_ip_address": ip}
            plugin.create_floatingip_port_forwarding(context, floating["id"], {pf_api.RESOURCE_NAME: ranges})
            self.work()
            udp = PortForwarding("udp", 8080, 8089, port["id"], ip, 80, 89)
            assert self.floating_row(floating).forwardings == (expected, udp)
            update = {pf_api.RESOURCE_NAME: {"external_port": 2022}}
            plugin.update_floatingip_port_forwarding(context, one["id"], floating["id"], update)
            self.work()
            moved = replace(expected, external_first=2022, external_last=2022)
            assert self.floating_row(floating).forwardings == (moved, udp)
            plugin.delete_floatingip_port_forwarding(context, one["id"], floating["id"])
            self.work()
            assert self.floating_row(floating).forwardings == (udp,)
            self._delete("ports", port["id"])
            self.work()
            assert (self.floating_row(floating).forwardings, self.floating_row(floating).router) == ((), None)
            self._delete("floatingips", floating["id"], as_admin=True)

    def test_its_policy_is_part_of_it(self):
        context, plugin = get_admin_context(), directory.get_plugin("L3_ROUTER_NAT")
        gold, silver = [
            directory.get_plugin("QOS").create_policy(context, {"policy": {**POLICY, "name": name}})["id"]
            for name in "gs"
        ]
        with self.subnet() as subnet, self.outside(subnet) as (_, outside):
            floating = self._make_floatingip(self.fmt, outside["network_id"], as_admin=True)["floatingip"]
            for policy in (gold, silver, None):
                plugin.update_floatingip(get_admin_context(), floating["id"], {"floatingip": {"qos_policy_id": policy}})
                self.work()
                assert self.floating_row(floating).qos == policy
            assert db.pending(get_admin_context()) == 0
            self._delete("floatingips", floating["id"], as_admin=True)

    def test_the_policy_of_a_gateway_is_part_of_its_router(self):
        qos, plugin = directory.get_plugin("QOS"), directory.get_plugin("L3_ROUTER_NAT")
        policy = qos.create_policy(get_admin_context(), {"policy": {**POLICY, "name": "g"}})["id"]
        with self.subnet() as subnet, self.outside(subnet) as (router, outside):
            for wanted in (policy, None):
                info = {"network_id": outside["network_id"], "qos_policy_id": wanted}
                plugin.update_router(get_admin_context(), router["id"], {"router": {"external_gateway_info": info}})
                self.work()
                assert self.router_row(router).gateway.qos == wanted
            assert db.pending(get_admin_context()) == 0

    def test_repair_finds_what_was_lost_spoilt_and_left_over(self):
        with self.subnet() as subnet, self.outside(subnet) as (_, outside), self.port(subnet) as port:
            made = self._make_floatingip(self.fmt, outside["network_id"], port["port"]["id"], as_admin=True)
            floating = made["floatingip"]
            self.work()
            row = self.floating_row(floating)
            key = Key(row.scope, "FloatingIp", row.id)
            spoils = {
                "missing": lambda: self.store.commit(Txn((Delete(key),))),
                "stale: fixed_ip is '192.0.2.9'": lambda: self.put(replace(row, fixed_ip="192.0.2.9")),
                "orphan: Neutron has no such object": lambda: self.put(replace(row, id="gone")),
            }
            for source in (Plugin, Survey):
                for expected, spoil in spoils.items():
                    spoil()
                    report = Repair(self.df.workers.dfdb, source()).run(fix=True)
                    found = [finding for finding in report.findings if finding.kind == "FloatingIp"]
                    assert [finding.difference.startswith(expected) for finding in found] == [True], report
                    assert self.floating_row(floating) == row
                    assert Repair(self.df.workers.dfdb, source()).run(fix=False).findings == ()
            self._delete("floatingips", floating["id"], as_admin=True)


class TestStatus(df_l3.RouterTestCase):
    def test_it_is_active_while_the_host_of_its_fixed_port_says_so(self):
        neutron = Neutron()
        self.chassis("h1")
        host = {"arg_list": ("binding:host_id",), "binding:host_id": "h1", "is_admin": True}
        with self.subnet() as subnet, self.outside(subnet) as (_, outside), self.port(subnet, **host) as fixed:
            made = self._make_floatingip(self.fmt, outside["network_id"], as_admin=True)["floatingip"]
            mark = neutron.mark()
            update = {"floatingip": {"port_id": fixed["port"]["id"]}}
            self._update("floatingips", made["id"], update, as_admin=True)
            assert neutron.mark() != mark
            self.work()
            row: FloatingIp = self.floating_row(made)
            ((now),) = neutron.floating([row.port])
            generation = self.port_row(fixed["port"]).generation
            assert (now.id, now.status, now.host, now.generation) == (made["id"], "DOWN", "h1", generation)
            assert [now] == [it for it in neutron.floating() if it.id == made["id"]]
            says = PortStatus(id=row.port, chassis="h1", generation=generation, status="ACTIVE", revision=1, at=0.0)
            assert floating_turn(now, ()) is None
            for other in (replace(says, chassis="h2"), replace(says, generation=7), replace(says, status="DOWN")):
                assert floating_turn(now, [other]) is None
                assert floating_turn(now, [other, says]) == "ACTIVE"
            neutron.turn_floating(now, "ACTIVE")
            assert self._show("floatingips", made["id"], as_admin=True)["floatingip"]["status"] == "ACTIVE"
            ((now),) = neutron.floating([row.port])
            assert (floating_turn(now, [says]), floating_turn(now, ())) == (None, "DOWN")
            self._update("floatingips", made["id"], {"floatingip": {"port_id": None}}, as_admin=True)
            ((now),) = neutron.floating([row.port])
            assert (now.host, floating_turn(now, [says])) == ("", "DOWN")
            neutron.turn_floating(now, "DOWN")
            assert self._show("floatingips", made["id"], as_admin=True)["floatingip"]["status"] == "DOWN"
            self._delete("floatingips", made["id"], as_admin=True)
            neutron.turn_floating(now, "ACTIVE")

    def test_one_whose_port_only_reserves_the_address_is_active_while_any_chassis_says_so(self):
        """As Octavia makes them for virtual IPs."""
        neutron = Neutron()
        with self.subnet() as subnet, self.outside(subnet) as (_, outside), self.port(subnet) as reserved:
            made = self._make_floatingip(self.fmt, outside["network_id"], as_admin=True)["floatingip"]
            self._update("floatingips", made["id"], {"floatingip": {"port_id": reserved["port"]["id"]}}, as_admin=True)
            self.work()
            row: FloatingIp = self.floating_row(made)
            assert self.port_row(reserved["port"]).chassis is None
            ((now),) = neutron.floating([row.port])
            says = PortStatus(id=row.port, chassis="h2", generation=0, status="ACTIVE", revision=1, at=0.0)
            assert (now.anywhere, floating_turn(now, ()), floating_turn(now, [says])) == (True, None, "ACTIVE")
            self.chassis("h1")
            host = {"port": {"binding:host_id": "h1"}}
            self._update("ports", reserved["port"]["id"], host, as_admin=True)
            ((now),) = neutron.floating([row.port])
            assert (now.anywhere, floating_turn(now, [says])) == (False, None), "it has a host of its own now"
            self._delete("floatingips", made["id"], as_admin=True)


class TestForwardingStatus(df_l3.RouterTestCase):
    _further_plugins = df_l3.FORWARDING

    def test_one_that_forwards_ports_is_active_while_any_chassis_says_so(self):
        neutron, context = Neutron(), get_admin_context()
        with self.subnet() as subnet, self.outside(subnet) as (_, outside), self.port(subnet) as made:
            port = made["port"]
            floating = self._make_floatingip(self.fmt, outside["network_id"], as_admin=True)["floatingip"]
            self.work()
            row: FloatingIp = self.floating_row(floating)
            says = PortStatus(id=row.port, chassis="h2", generation=0, status="ACTIVE", revision=1, at=0.0)

            def now():
                ((found),) = neutron.floating([row.port])
                return found

            assert (now().anywhere, floating_turn(now(), [says])) == (False, None), "it serves nobody"
            body = {**FORWARDED, "internal_port_id": port["id"]}
            body["internal_ip_address"] = port["fixed_ips"][0]["ip_address"]
            plugin, mark = directory.get_plugin("PORTFORWARDING"), neutron.mark()
            one = plugin.create_floatingip_port_forwarding(context, floating["id"], {pf_api.RESOURCE_NAME: body})
            assert (now().anywhere, neutron.mark() != mark) == (True, True)
            for other in (replace(says, generation=1), replace(says, status="DOWN")):
                assert floating_turn(now(), [other]) is None
                assert floating_turn(now(), [other, says]) == "ACTIVE"
            neutron.turn_floating(now(), "ACTIVE")
            assert (floating_turn(now(), [says]), floating_turn(now(), ())) == (None, "DOWN")
            mark = neutron.mark()
            plugin.delete_floatingip_port_forwarding(context, one["id"], floating["id"])
            assert (now().anywhere, neutron.mark() != mark) == (False, True)
            assert floating_turn(now(), [says]) == "DOWN"
            self._delete("floatingips", floating["id"], as_admin=True)
