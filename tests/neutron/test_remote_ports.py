"""Ports of other regions under Neutron's API: what each call leaves in the DF DB, what is refused, and when they are ACTIVE."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import df_l3
import df_ml2
import pytest
from msgspec.structs import replace
from neutron.conf.plugins.ml2.drivers import driver_type
from neutron.db import provisioning_blocks
from neutron_lib import exceptions
from neutron_lib.api.definitions import floating_ip_port_forwarding as pf_api
from neutron_lib.callbacks import resources
from neutron_lib.context import get_admin_context
from neutron_lib.plugins import directory
from oslo_config import cfg
from webob import exc

from dragonflow.model import Binding, LogicalPort, PortStatus, RemoteEnd
from dragonflow.neutron import db
from dragonflow.neutron.agents import AgentTable
from dragonflow.neutron.repair import Repair
from dragonflow.neutron.source import Plugin
from dragonflow.neutron.status import Neutron, unbound_turn
from dragonflow.neutron.survey import Survey
from dragonflow.store.protocol import Delete, Key, Txn

PROFILE, HOST = "binding:profile", "binding:host_id"
VTEP = "198.51.100.7"
REMOTE = {"port_key": "remote_port", "host_ip": VTEP}
OWNER = "dragonflow:remote_port"
COMPUTE = {"device_owner": "compute:nova", "device_id": "6ec1b1c3-4d6b-4a3b-9f06-3e2d4f3a8f11"}


class Mixin:
    """Calls of Neutron's API about such ports; the body of an answer, or what is wrong by its message."""

    def setUp(self) -> None:
        driver_type.register_ml2_drivers_geneve_opts()
        cfg.CONF.set_override("project_network_types", ["geneve"], group="ml2")
        cfg.CONF.set_override("vni_ranges", ["1:1000"], group="ml2_type_geneve")
        super().setUp()

    @property
    def admin(self) -> Any:
        """A context for one call, as each request has its own."""
        return get_admin_context()

    @contextlib.contextmanager
    def remote_port(self, subnet: dict, profile: dict | None = None, **fields: object) -> Iterator[dict]:
        fields = {PROFILE: REMOTE if profile is None else profile, "device_owner": OWNER, **fields}
        with self.port(subnet, is_service=True, arg_list=tuple(fields), **fields) as made:
            yield made["port"]

    def change(self, port: dict, **fields: object) -> dict:
        named = {name.replace("__", ":"): value for name, value in fields.items()}
        return self._update("ports", port["id"], {"port": named}, as_service=True)["port"]

    def refused(self, port: dict, **fields: object) -> str:
        """The message with which the change is refused; it has changed nothing."""
        before, waiting = self.stored(port), self.entries()
        named = {name.replace("__", ":"): value for name, value in fields.items()}
        answer = self.new_update_request("ports", {"port": named}, port["id"], as_service=True)
        answer = answer.get_response(self.api)
        assert answer.status_int == exc.HTTPBadRequest.code, answer.body
        assert (self.stored(port), self.entries()) == (before, waiting)
        return answer.json["NeutronError"]["message"]

    def not_created(self, network: str, **fields: object) -> str:
        """The message with which a port is refused; nothing is left of it."""
        before, waiting = self.ports(), self.entries()
        body = {"network_id": network, "project_id": "p", PROFILE: REMOTE}
        body |= {name.replace("__", ":"): value for name, value in fields.items()}
        answer = self.new_create_request("ports", {"port": body}, as_service=True).get_response(self.api)
        assert answer.status_int == exc.HTTPBadRequest.code, answer.body
        assert (self.ports(), self.entries()) == (before, waiting)
        return answer.json["NeutronError"]["message"]

    def stored(self, port: dict) -> dict:
        return directory.get_plugin().get_port(self.admin, port["id"])

    def ports(self) -> set[str]:
        return {port["id"] for port in directory.get_plugin().get_ports(self.admin)}

    def entries(self) -> int:
        """Of the journal, without those of default security groups, which Neutron makes before it asks anybody."""
        return self.admin.session.query(db.JournalEntry).filter(db.JournalEntry.kind != "secgroup").count()

    def now(self, port: dict) -> db.PortNow:
        ((found),) = Neutron().ports([port["id"]])
        return found


class TestRows(Mixin, df_ml2.DfMl2TestCase):
    def test_a_port_appears_moves_and_goes(self):
        with self.subnet() as subnet:
            with self.remote_port(subnet) as port:
                assert (port["status"], port["binding:vif_type"], port[HOST]) == ("DOWN", "unbound", "")
                self.work()
                row = self.port_row(port)
                assert (row.chassis, row.remote) == ("RemoteChassis:198.51.100.7", RemoteEnd())
                assert (row.mac, row.ips) == (port["mac_address"], (port["fixed_ips"][0]["ip_address"],))
                there = {**REMOTE, "host_ip": "2001:DB8::9", "region": "west", "network_type": "vxlan"}
                for vni in range(74, 78):
                    self.change(port, binding__profile={**there, "segmentation_id": vni, "status": "DOWN"})
                with mock.patch.object(Plugin, "load", autospec=True, side_effect=Plugin.load) as load:
                    self.work()
                assert sum(call.args[2] == port["id"] for call in load.call_args_list) == 1, "written once"
                row = self.port_row(port)
                assert (row.chassis, row.remote) == (
                    "RemoteChassis:2001:db8::9",
                    RemoteEnd("west", "vxlan", 77, False),
                )
                assert self.ids("host:*") == set(), "no host of ours has it"
                self._delete("ports", port["id"], as_admin=True)
            self.work()
            assert self.port_row(port) is None
        assert db.pending(self.admin) == 0

    def test_a_bound_port_turns_into_one_of_another_region_and_back(self):
        self.chassis()
        others = {"host_ip": "nonsense", "pci_slot": "0000:00:00.0"}
        with self.subnet() as subnet, self.remote_port(subnet, others, **{HOST: "h1"}) as port:
            self.work()
            assert (port["binding:vif_type"], self.port_row(port).chassis) == ("ovs", "h1"), (
                "others' profiles aren't ours"
            )
            Neutron().set(port["id"], "ACTIVE")
            assert "binding:host_id is 'h1'" in self.refused(port, binding__profile=REMOTE)
            changed = self.change(port, binding__profile=REMOTE, binding__host_id="")
            assert changed["status"] == "DOWN", "what its host said counts no more"
            self.work()
            assert self.port_row(port).chassis == "RemoteChassis:198.51.100.7"
            assert self.ids("host:*") == set()
            assert "binding:host_id is 'h1'" in self.refused(port, binding__host_id="h1")
            self.change(port, binding__host_id="h1", binding__profile={})
            self.work()
            row = self.port_row(port)
            assert (row.chassis, row.remote) == ("h1", None)
            assert self.ids("host:h1") == {("Binding", port["id"])}
            assert isinstance(self.row(Binding, port["id"], "host:h1"), Binding)

    def test_repair_finds_what_was_lost_spoilt_and_left_over(self):
        with self.subnet() as subnet, self.remote_port(subnet, {**REMOTE, "segmentation_id": 7}) as port:
            self.work()
            row: LogicalPort = self.port_row(port)
            key = Key(row.scope, "LogicalPort", row.id)
            stray = Binding(id=row.id, host="h1", network=row.network, generation=row.generation)
            spoils = {
                "missing": lambda: self.store.commit(Txn((Delete(key),))),
                "orphan: the port does not belong to host:h1": lambda: self.put(stray),
            }
            everything = [{found.key: found.make(7) for found in source().all()} for source in (Plugin, Survey)]
            assert everything[0] == everything[1], "the columns say the same as Neutron's API"
            for source in (Plugin, Survey):
                Repair(self.df.workers.dfdb, source()).run(fix=True)
                for expected, spoil in spoils.items():
                    spoil()
                    report = Repair(self.df.workers.dfdb, source()).run(fix=True)
                    assert [finding.difference for finding in report.findings] == [expected], report
                    assert self.port_row(port) == row
                    assert Repair(self.df.workers.dfdb, source()).run(fix=False).findings == ()


class TestDoor(Mixin, df_ml2.DfMl2TestCase):
    def test_nonsense_is_refused_by_name_and_leaves_nothing(self):
        with self.subnet() as subnet, self.remote_port(subnet) as port:
            network = port["network_id"]
            for profile, named in (
                ({"port_key": "remote_port"}, "host_ip is missing"),
                ({**REMOTE, "host_ip": "chassis7"}, "host_ip is 'chassis7': give an IPv4 or IPv6 address"),
                ({**REMOTE, "vni": 7}, "unknown keys vni"),
                ({"port_key": "local_port"}, "port_key is 'local_port'"),
            ):
                assert named in self.not_created(network, binding__profile=profile)
                assert named in self.refused(port, binding__profile=profile)
            assert "binding:host_id is 'h1'" in self.not_created(network, binding__host_id="h1")
            bulk = {"ports": [{"network_id": network, "project_id": "p"} for _ in range(3)]}
            bulk["ports"][1][PROFILE] = {**REMOTE, "segmentation_id": 0}
            before = self.ports()
            answer = self.new_create_request("ports", bulk, as_service=True).get_response(self.api)
            assert (answer.status_int, self.ports()) == (400, before)
            assert "segmentation_id is 0" in answer.json["NeutronError"]["message"]
            for owner in ("network:dhcp", "compute:nova", "baremetal:none", "trunk:subport", "manila:share"):
                named = f"device_owner is {owner!r}: that is for ports of this region"
                assert named in self.not_created(network, device_owner=owner)
                assert named in self.refused(port, device_owner=owner)
            bulk["ports"][1][PROFILE] = REMOTE
            made = self.new_create_request("ports", bulk, as_service=True).get_response(self.api).json["ports"]
            self.work()
            assert [self.port_row(each).chassis for each in made] == [None, "RemoteChassis:198.51.100.7", None]
            AgentTable().report(replace(self.chassis(), tunnel_ip=VTEP))
            assert self.change(port, name="db1")["name"] == "db1", (
                "what is there goes on, whatever became of its address"
            )
        fields = {"provider:network_type": "flat", "provider:physical_network": "physnet1"}
        with self.network(as_admin=True, arg_list=tuple(fields), **fields) as flat:
            message = self.not_created(flat["network"]["id"], binding__profile={**REMOTE, "host_ip": "198.51.100.8"})
            assert "the network is of type flat: only geneve, vxlan, gre networks reach other regions" in message

    def test_no_chassis_of_our_own(self):
        own = {**REMOTE, "host_ip": "192.0.2.1"}
        with self.network() as network:
            AgentTable().report(self.chassis())
            for _ in ("by Neutron's agents", "by the DF DB"):
                message = self.not_created(network["network"]["id"], binding__profile=own)
                assert "host_ip is 192.0.2.1: that is chassis h1 of this region" in message
                hosts = self.df.workers.hosts
                for each in directory.get_plugin().get_agents(self.admin):
                    directory.get_plugin().delete_agent(self.admin, each["id"])
                with mock.patch.object(hosts, "_stop") as stop:
                    stop.is_set.side_effect = [False, False, False, True]
                    hosts.run()
                assert hosts.chassis() == [self.chassis()]

    def test_a_port_that_is_being_migrated_stays_here(self):
        self.chassis("h1")
        self.chassis("h2")
        plugin = directory.get_plugin()
        target = {"host": "h2", "vnic_type": "normal", "profile": {}}
        with self.subnet() as subnet, self.remote_port(subnet, {}, **{HOST: "h1"}, **COMPUTE) as port:
            plugin.create_port_binding(self.admin, port["id"], {"binding": target})
            elsewhere = {"binding__profile": REMOTE, "binding__host_id": "", "device_owner": OWNER}
            assert "prepared for a migration to h2" in self.refused(port, **elsewhere)
            plugin.delete_port_binding(self.admin, "h2", port["id"])
            for profile in (REMOTE, {**REMOTE, "host_ip": "nonsense"}):
                with pytest.raises(exceptions.InvalidInput, match="binding:host_id is 'h2'"):
                    plugin.create_port_binding(self.admin, port["id"], {"binding": {**target, "profile": profile}})
            self.change(port, **elsewhere)
            with pytest.raises(exceptions.BadRequest, match="only valid on compute"):
                plugin.create_port_binding(self.admin, port["id"], {"binding": target})


class TestTrunks(Mixin, df_ml2.DfMl2TestCase):
    def get_additional_service_plugins(self) -> dict[str, str]:
        return {**super().get_additional_service_plugins(), "trunk": "trunk"}

    def test_neither_parent_nor_child(self):
        plugin = directory.get_plugin("trunk")
        with (
            self.subnet(cidr="10.1.0.0/24") as one,
            self.subnet(cidr="10.2.0.0/24") as other,
            self.port(one) as one_port,
            self.port(other) as other_port,
            self.remote_port(other) as remote,
        ):
            parent, child = one_port["port"], other_port["port"]

            def body(port: dict, *children: dict) -> dict:
                tagged = [{"segmentation_type": "vlan", "segmentation_id": 7, "port_id": it["id"]} for it in children]
                return {"trunk": {"port_id": port["id"], "project_id": "p", "sub_ports": tagged}}

            for refused in (body(remote), body(parent, remote)):
                with pytest.raises(exceptions.InvalidInput, match=f"port {remote['id']} is one of another region"):
                    plugin.create_trunk(self.admin, refused)
            assert plugin.get_trunks(self.admin) == []
            trunk = plugin.create_trunk(self.admin, body(parent, child))["id"]
            with pytest.raises(exceptions.InvalidInput, match=f"port {remote['id']} is one of another region"):
                plugin.add_subports(self.admin, trunk, {"sub_ports": body(parent, remote)["trunk"]["sub_ports"]})
            # Not by the API: to tell of trunks the plugin reads with a second context (see test_trunk_driver).
            for port in (parent, child):
                assert db.obstacle_to_remote(self.admin, port["id"]) == "the port has a trunk; take that from it first"
            assert db.obstacle_to_remote(self.admin, remote["id"]) is None


class TestRouters(Mixin, df_l3.RouterTestCase):
    _further_plugins = df_l3.FORWARDING

    def test_neither_floating_ip_nor_forwarding_nor_router(self):
        with (
            self.subnet() as subnet,
            self.outside(subnet) as (router, outside),
            self.port(subnet) as made,
            self.remote_port(subnet) as remote,
        ):
            port, network = made["port"], outside["network_id"]
            what = f"port {remote['id']} is one of another region"
            before = self.ports()
            answer = self._create_floatingip(self.fmt, network, remote["id"], as_admin=True)
            assert (answer.status_int, self.ports()) == (400, before)
            assert what in answer.json["NeutronError"]["message"]
            floating = self._make_floatingip(self.fmt, network, as_admin=True)["floatingip"]
            change = {"floatingip": {"port_id": remote["id"]}}
            answer = self.new_update_request("floatingips", change, floating["id"], as_admin=True)
            answer = answer.get_response(self.ext_api)
            assert answer.status_int == 400
            assert what in answer.json["NeutronError"]["message"]
            assert self._show("floatingips", floating["id"], as_admin=True)["floatingip"]["port_id"] is None

            plugin = directory.get_plugin("PORTFORWARDING")

            def body(target: dict) -> dict:
                ports = {"internal_port": 22, "external_port": 2222, "protocol": "tcp"}
                ip = target["fixed_ips"][0]["ip_address"]
                return {pf_api.RESOURCE_NAME: {**ports, "internal_port_id": target["id"], "internal_ip_address": ip}}

            with pytest.raises(exceptions.InvalidInput, match=what):
                plugin.create_floatingip_port_forwarding(self.admin, floating["id"], body(remote))
            forwarding = plugin.create_floatingip_port_forwarding(self.admin, floating["id"], body(port))
            with pytest.raises(exceptions.InvalidInput, match=what):
                plugin.update_floatingip_port_forwarding(self.admin, forwarding["id"], floating["id"], body(remote))
            elsewhere = {"binding__profile": REMOTE, "device_owner": OWNER}
            assert "the port has a port forwarding" in self.refused(port, **elsewhere)
            plugin.delete_floatingip_port_forwarding(self.admin, forwarding["id"], floating["id"])
            change = {"floatingip": {"port_id": port["id"]}}
            self._update("floatingips", floating["id"], change, as_admin=True)
            assert "the port has a floating IP" in self.refused(port, **elsewhere)
            self._delete("floatingips", floating["id"], as_admin=True)
            answer = self._router_interface_action("add", router["id"], None, remote["id"], expected_code=400)
            assert "that is for ports of this region" in answer["NeutronError"]["message"]
            assert self.stored(remote)["device_owner"] == OWNER


class TestStatus(Mixin, df_ml2.DfMl2TestCase):
    def test_it_is_active_while_a_chassis_says_so(self):
        neutron = Neutron()
        with self.subnet() as subnet, self.remote_port(subnet) as port, self.port(subnet) as other:
            assert (self.now(port).remote, self.now(other["port"]).remote) == (True, False)
            says = PortStatus(id=port["id"], chassis="h1", generation=0, status="ACTIVE", revision=1, at=0.0)
            assert unbound_turn(self.now(port), ()) is None
            assert unbound_turn(self.now(port), [says]) == "ACTIVE"
            mark = neutron.mark()
            with (
                mock.patch("dragonflow.neutron.db.listeners.owe") as owe,
                mock.patch.object(directory.get_plugin(), "nova_notifier", create=True) as nova,
            ):
                for status, rows in (("ACTIVE", [says]), ("DOWN", []), ("ACTIVE", [says])):
                    assert unbound_turn(self.now(port), rows) == status
                    assert neutron.turn([self.now(port)], status) == [port["id"]]
                    assert self.stored(port)["status"] == status
                    assert unbound_turn(self.now(port), rows) is None
            assert neutron.mark() != mark
            assert all(not db.of_nova(call.args[1].device_id, call.args[1].device_owner) for call in owe.call_args_list)
            assert nova.notify_port_active_direct.call_count == 0
            assert self.change(port, admin_state_up=False)["status"] == "ACTIVE"
            assert self.stored(port)["status"] == "DOWN", "it was switched off"
            assert unbound_turn(self.now(port), [says]) is None
            self.change(port, admin_state_up=True)
            assert unbound_turn(self.now(port), [says]) == "ACTIVE"
            neutron.turn([self.now(port)], "ACTIVE")
            moved = self.change(port, binding__profile={**REMOTE, "host_ip": "198.51.100.8"})
            assert moved["status"] == "DOWN", "ML2 does so with each change of a profile"
            assert unbound_turn(self.now(port), [says]) == "ACTIVE"
            assert neutron.mark() != mark

    def test_what_its_former_host_was_to_say_holds_nothing_up(self):
        self.chassis()
        with self.subnet() as subnet, self.remote_port(subnet, {}, **{HOST: "h1"}) as port:

            def waits() -> bool:
                return provisioning_blocks.is_object_blocked(self.admin, port["id"], resources.PORT)

            assert waits()
            self.change(port, binding__profile=REMOTE, binding__host_id="")
            assert Neutron().turn([self.now(port)], "ACTIVE") == [port["id"]]
            assert (waits(), self.stored(port)["status"]) == (False, "ACTIVE")
            self.change(port, binding__profile={}, binding__host_id="h1")
            assert (waits(), self.stored(port)["status"]) == (True, "DOWN"), "from now on its host counts"
            assert not self.now(port).remote
