"""The ground the other dataplane tests stand on."""

from __future__ import annotations

import pytest

from dragonflow.lab.vswitch import VSwitch, VSwitchError


def test_a_bridge_takes_flows_and_forgets_them_when_vswitchd_restarts(vswitch: VSwitch) -> None:
    vswitch.add_bridge("br-int")
    vswitch.ofctl("add-flow", "br-int", "table=7,priority=5,actions=drop")
    assert "table=7" in vswitch.ofctl("dump-flows", "br-int")
    before = vswitch.pids

    vswitch.restart_vswitchd(kill=True)

    assert vswitch.pids["ovsdb-server"] == before["ovsdb-server"]
    assert vswitch.pids["ovs-vswitchd"] != before["ovs-vswitchd"]
    assert "table=7" not in vswitch.ofctl("dump-flows", "br-int")
    assert vswitch.vsctl("list-br").split() == ["br-int"]


def test_another_process_can_take_hold_of_a_running_switch(vswitch: VSwitch) -> None:
    again = VSwitch(vswitch.directory, vswitch.netns)
    assert again.pids == vswitch.pids
    again.start()
    assert again.pids == vswitch.pids
    again.stop()
    assert vswitch.pids == {}


def test_errors_say_what_open_vswitch_said(vswitch: VSwitch) -> None:
    with pytest.raises(VSwitchError, match="no bridge named nowhere"):
        vswitch.vsctl("list-ports", "nowhere")
