"""When tunnels to other regions can be encrypted, and that they are not made where they can't. No IPsec is spoken here."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from dragonflow.config import CONTROLLER_OPTS, GROUP, METADATA_OPTS, STORE_OPTS, ConfigError, load
from dragonflow.controller.ipsec import Watch, read_psk, trouble
from dragonflow.controller.settings import Settings
from dragonflow.model import Ipsec
from dragonflow.switch.ledger import Tunnel
from dragonflow.switch.ovsdb import Ovsdb

KEY = "a key that nobody guesses"
MARKED = {"ipsec_skb_mark": "1/1"}
FILES = {"certificate": "c.pem", "private_key": "k.pem", "ca_cert": "ca.pem"}


@pytest.mark.parametrize(
    ("mode", "datapath", "config", "daemon", "named"),
    [
        ("psk", "netdev", MARKED, None, "kernel's data path"),
        ("psk", "system", MARKED, "no such socket", "ovs-monitor-ipsec doesn't run (no such socket)"),
        ("psk", "system", {}, None, "ipsec_skb_mark=1/1"),
        ("psk", "system", {"ipsec_skb_mark": "0/1"}, None, "ipsec_skb_mark=1/1"),
        ("certificates", "system", MARKED, None, "certificate, private_key, ca_cert"),
        ("certificates", "system", {**MARKED, **FILES, "ca_cert": ""}, None, "other_config:ca_cert"),
        ("certificates", "system", {**MARKED, **FILES}, None, None),
        ("psk", "system", MARKED, None, None),
    ],
)
def test_what_is_missing_is_named(
    mode: str, datapath: str, config: dict[str, str], daemon: str | None, named: str | None
) -> None:
    found = trouble(mode, datapath, config, daemon)  # type: ignore[arg-type]
    assert (found is None) == (named is None)
    assert named is None or named in (found or "")


@pytest.mark.parametrize(
    ("text", "mode", "wrong"),
    [
        (KEY, 0o640, "0600"),
        (KEY, 0o604, "0600"),
        ("short", 0o600, "at least 16"),
        (f"{KEY}\nof two lines", 0o600, "one line"),
        (KEY + chr(34), 0o600, "quotation mark"),
        ("", 0o600, "at least 16"),
    ],
)
def test_a_key_that_others_may_know_is_refused_and_not_told(tmp_path: Path, text: str, mode: int, wrong: str) -> None:
    file = tmp_path / "psk"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(ValueError, match=wrong) as caught:
        read_psk(file)
    assert KEY not in str(caught.value)


def settings(tmp_path: Path, more: str) -> Settings:
    path = tmp_path / "df.conf"
    path.write_text(f"[df]\nhost = h1\ntunnel_ip = 192.0.2.1\n{more}")
    return Settings.of(load([str(path)], STORE_OPTS, CONTROLLER_OPTS, METADATA_OPTS)[GROUP])


def test_the_key_comes_from_its_file_and_stays_out_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "psk"
    file.write_text(f"{KEY}\n")
    file.chmod(0o600)
    found = settings(tmp_path, f"region_ipsec = psk\nregion_ipsec_psk_file = {file}\n")
    assert (found.read_psk(), found.me.region_ipsec) == (KEY, "psk")
    assert KEY not in repr(found)
    assert KEY not in repr(found.me)
    assert settings(tmp_path, "").read_psk() is None
    assert settings(tmp_path, "region_ipsec = certificates\n").read_psk() is None
    for more in ("region_ipsec = psk\n", f"region_ipsec = psk\nregion_ipsec_psk_file = {tmp_path}/none\n"):
        with pytest.raises(ConfigError, match="region_ipsec_psk_file"):
            settings(tmp_path, more).read_psk()


def test_a_tunnel_has_the_options_of_ovs_ipsec_and_its_mark() -> None:
    tested = Ovsdb("unix:none", "br-int", "system", lambda *_: None, KEY)
    by_key = tested._tunnel("df-r1", Tunnel("geneve", "192.0.2.1", "198.51.100.7", "psk"))
    assert (by_key.options["psk"], by_key.options["egress_pkt_mark"]) == (KEY, "1")
    by_name = tested._tunnel("df-r1", Tunnel("geneve", "192.0.2.1", "198.51.100.7", "certificates"))
    assert (by_name.options["remote_name"], by_name.options["egress_pkt_mark"]) == ("198.51.100.7", "1")
    assert "psk" not in by_name.options
    assert (
        not {"psk", "remote_name", "egress_pkt_mark"} & tested._tunnel("df-r1", Tunnel("gre", "a", "b")).options.keys()
    )


async def test_the_daemon_is_asked_again_and_again_and_only_news_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    told: list[Ipsec] = []
    tested = Watch("psk", "system", f"unix:{tmp_path}/db.sock", lambda: MARKED, told.append)
    for _ in range(2):
        await tested.look()
    assert len(told) == 1
    assert "ovs-monitor-ipsec doesn't run" in (told[0].trouble or "")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = json.loads(await reader.readuntil(b"}"))
        writer.write(json.dumps({"id": question["id"], "result": "3.1.0", "error": None}).encode())

    (tmp_path / "ovs-monitor-ipsec.pid").write_text("7\n")
    server = await asyncio.start_unix_server(answer, tmp_path / "ovs-monitor-ipsec.7.ctl")
    async with server:
        await tested.look()
    assert told[1:] == [Ipsec()]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]
