"""The options of the metadata service: what is wrong is told at the door, and the secret never."""

from __future__ import annotations

from pathlib import Path

import pytest

from dragonflow.config import CONTROLLER_OPTS, GROUP, METADATA_OPTS, STORE_OPTS, ConfigError, load
from dragonflow.controller.settings import Settings as Controller
from dragonflow.metadata.settings import Settings


def options(directory: Path, *lines: str) -> object:
    file = directory / "dragonflow.conf"
    file.write_text("\n".join(("[df]", "tunnel_ip = 192.0.2.1", *lines)))
    return load([str(file)], STORE_OPTS, CONTROLLER_OPTS, METADATA_OPTS)[GROUP]


def test_the_options_say_where_nova_is(tmp_path: Path) -> None:
    given = options(tmp_path, "metadata_proxy_shared_secret = s3cret", "nova_metadata_host = 2001:db8::1")
    found = Settings.of(given)
    assert (found.url, found.secret, found.verify) == ("http://[2001:db8::1]:8775", "s3cret", True)
    assert Controller.of(given).me.metadata
    assert "s3cret" not in repr(found) + repr(Controller.of(given))


def test_without_a_secret_a_chassis_serves_no_metadata(tmp_path: Path) -> None:
    assert not Controller.of(options(tmp_path)).me.metadata


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("metadata_proxy_shared_secret =", "metadata_proxy_shared_secret"),
        ("metadata_proxy_shared_secret = s\nauth_ca_cert = /nowhere", "auth_ca_cert: there is no file /nowhere"),
    ],
)
def test_wrong_options_are_told_to_both(tmp_path: Path, line: str, said: str) -> None:
    given = options(tmp_path, line)
    for reader in (Settings.of, Controller.of):
        with pytest.raises(ConfigError, match=said):
            reader(given)


@pytest.mark.parametrize(
    "line",
    [
        "nova_metadata_port = 70000",
        "nova_metadata_protocol = ftp",
        "nova_metadata_host = a b",
        "nova_metadata_insecure = x",
    ],
)
def test_values_of_the_wrong_kind_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError):
        options(tmp_path, line)
