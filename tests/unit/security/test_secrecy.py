"""Secrets stay where they belong: files that are open are refused, and nothing that is shown has a password in it."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest
from oslo_config import cfg
from typer.testing import CliRunner

from dragonflow import config, secrecy
from dragonflow.cli.main import app
from dragonflow.pubsub import UnknownPubSub, open_pubsub
from dragonflow.regions.settings import Settings as Orchestrator
from dragonflow.store import UnknownStore, open_store
from dragonflow.store._url import read_password, read_pem
from dragonflow.store.memory import Memory, MemoryStore
from dragonflow.store.protocol import Unavailable

WITH_PASSWORDS = [
    "etcd://dragonflow:sesame@10.0.0.1:2379/dragonflow",
    "etcd+tls://dragonflow:sesame@10.0.0.1:2379,10.0.0.2:2379/dragonflow?ca=/etc/ca.pem",
    "etcd://dragonflow:open/sesame@10.0.0.1:2379/dragonflow",
    "etcd://dragonflow:open?sesame@10.0.0.1:2379/dragonflow",
    "etcd://dragonflow:open@sesame@10.0.0.1:2379/dragonflow",
    "etcd://10.0.0.1:2379/dragonflow?password=sesame",
    "etcd://dragonflow@10.0.0.1:2379/dragonflow?password_file=sesame",
    "etcd://10.0.0.1:2379/dragonflow?sesame",
    "redis://:sesame@10.0.0.1:6379",
    "redis://dragonflow:sesame@10.0.0.1",
    "redis+sentinel://dragonflow:sesame@10.0.0.1:26379/mymaster",
    "sqlite://dragonflow:sesame@host/dfdb",
    "mysql+pymysql://neutron:sesame@10.0.0.1/neutron",
    "zmq+tcp://dragonflow:sesame@10.0.0.1",
]


@pytest.mark.parametrize("url", WITH_PASSWORDS)
def test_a_password_in_a_url_is_refused_and_never_shown(url: str, tmp_path: Path) -> None:
    assert "sesame" not in secrecy.masked(url)
    with pytest.raises(UnknownStore) as refused:
        open_store(url)
    assert "sesame" not in str(refused.value)
    with pytest.raises(UnknownPubSub) as bus:
        open_pubsub(url, MemoryStore(Memory()))
    assert "sesame" not in str(bus.value)
    shown = CliRunner().invoke(app, ["show", "networks", "--store-url", url])
    assert shown.exit_code == 1
    assert "sesame" not in shown.output
    assert "error" in shown.output
    file = tmp_path / "dragonflow.conf"
    file.write_text(f"[df]\ntunnel_ip = 192.0.2.1\nstore_url = {url}\npubsub_url = store\n")
    ran = CliRunner().invoke(app, ["controller", "--config-file", str(file)])
    assert (ran.exit_code, "sesame" in ran.output) == (1, False)
    for line in (f"election = {url}", f"hints = one store {url}", f"hints = one {url} {url}", f"hints = {url}"):
        file.write_text(f"[orchestrator]\nregions = one\n{line}\n")
        options = config.load([str(file)], config.ORCHESTRATOR_OPTS, section=config.ORCHESTRATOR)[config.ORCHESTRATOR]
        with pytest.raises(config.ConfigError) as wrong:
            Orchestrator.of(options)
        assert "sesame" not in str(wrong.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///var/lib/dragonflow/dfdb.sqlite",
        "etcd+tls://df@10.0.0.1:2379,[::1]:2379/dragonflow?password_file=/etc/df@one/password&ca=/etc/ca.pem",
        "redis+sentinel://df@10.0.0.1:26379,h:1/mymaster/3?password_file=/p&wait=1&prefix=x",
        "zmq+tcp://10.0.0.1?key=/etc/dragonflow/h1.key_secret&peers=/etc/dragonflow/peers",
        "zmq+ipc:///run/dragonflow/pubsub",
        "store",
    ],
)
def test_a_url_without_secrets_is_shown_as_it_is(url: str) -> None:
    assert secrecy.masked(url) == url


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        ("etcd://10.0.0.1:2379/dragonflow", True),
        ("etcd://127.0.0.1:2379,10.0.0.1:2379/dragonflow", True),
        ("etcd://df@[::1]:2379,localhost:2379/dragonflow?password_file=/p", False),
        ("etcd+tls://10.0.0.1:2379/dragonflow", False),
        ("redis://db:6379/3", True),
        ("redis+sentinel://10.0.0.1:26379/m", True),
        ("redis+sentinel+tls://10.0.0.1:26379/m", False),
        ("redis+unix:///run/redis.sock", False),
        ("sqlite:///x", False),
        ("zmq+ipc:///x", False),
        ("zmq+tcp://10.0.0.1", True),
        ("zmq+tcp://10.0.0.1?key=/k&peers=/p", False),
        ("zmq+tcp://[::1]", False),
        ("store", False),
    ],
)
def test_what_leaves_the_machine_in_clear_is_told(url: str, clear: bool, caplog: pytest.LogCaptureFixture) -> None:
    secrecy.warn_if_in_clear("[df] store_url", url)
    assert secrecy.in_clear(url) is clear
    assert ("is not encrypted" in caplog.text) is clear


def test_no_dump_of_options_shows_a_secret(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "dragonflow.conf"
    url = "redis://df:sesame@10.0.0.1"
    file.write_text(
        f"[df]\nstore_url = {url}\npubsub_url = {url}\nmetadata_proxy_shared_secret = sesame\n"
        f"[orchestrator]\nelection = {url}\nhints = one {url} {url}\n"
    )
    conf = cfg.ConfigOpts()
    config.register(conf, config.STORE_OPTS, config.CONTROLLER_OPTS, config.METADATA_OPTS)
    config.register(conf, config.ORCHESTRATOR_OPTS, section=config.ORCHESTRATOR)
    conf([], default_config_files=[str(file)])
    with caplog.at_level(logging.DEBUG):
        conf.log_opt_values(logging.getLogger("dump"), logging.DEBUG)
    assert "df.metadata_proxy_shared_secret = ****" in caplog.text
    assert "df.openflow_connection" in caplog.text
    assert "sesame" not in caplog.text


@pytest.mark.parametrize(("mode", "said"), [(0o644, True), (0o604, True), (0o640, False), (0o600, False)])
def test_a_configuration_with_a_secret_should_not_be_everybodys(
    mode: int, said: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    file = tmp_path / "dragonflow.conf"
    file.write_text("[df]\nmetadata_proxy_shared_secret = sesame\n")
    file.chmod(mode)
    config.load([str(file)], config.CONTROLLER_OPTS, config.METADATA_OPTS)
    assert (f"chmod o= {file}" in caplog.text) is said
    assert "sesame" not in caplog.text
    clouds = f"[orchestrator]\nregions = one\nclouds_file = {file}\n"
    (tmp_path / "orchestrator.conf").write_text(clouds)
    conf = config.load([str(tmp_path / "orchestrator.conf")], config.ORCHESTRATOR_OPTS, section=config.ORCHESTRATOR)
    Orchestrator.of(conf[config.ORCHESTRATOR])
    assert ("holds credentials" in caplog.text) is said
    caplog.clear()
    file.write_text("[df]\n")
    config.load([str(file)], config.CONTROLLER_OPTS, config.METADATA_OPTS)
    assert not caplog.text


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o602, 0o600])
def test_a_key_that_everybody_may_read_is_none(mode: int, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sesame\n")
    file.chmod(mode)
    if mode & stat.S_IRWXO:
        for read in (read_password, lambda path: read_pem("key", path), secrecy.read):
            with pytest.raises((Unavailable, secrecy.NotSecret), match=f"chmod o= {file}") as refused:
                read(file)  # type: ignore[operator]
            assert "sesame" not in str(refused.value)
    else:
        assert (read_password(file), read_pem("key", file)) == ("sesame", b"sesame\n")
    assert read_pem("ca", file) == b"sesame\n"  # which is no secret


def test_what_is_no_text_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "password"
    secrecy.write(file, b"sesame\xff")
    with pytest.raises(Unavailable, match="no text in UTF-8") as refused:
        read_password(file)
    assert "sesame" not in str(refused.value)


def test_files_of_secrets_are_their_owners_from_the_first_byte(tmp_path: Path) -> None:
    file = tmp_path / "key"
    secrecy.write(file, b"one", fresh=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        secrecy.write(file, b"two", fresh=True)
    assert file.read_bytes() == b"one"
    file.chmod(0o666)
    secrecy.write(file, b"three")
    assert (stat.S_IMODE(file.stat().st_mode), file.read_bytes()) == (0o600, b"three")
