"""What is installed beside the code: the sample configuration and the unit file."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ETC = ROOT / "etc"


def test_the_sample_configuration_is_current(tmp_path: Path) -> None:
    made = tmp_path / "sample"
    generator = Path(sys.executable).with_name("oslo-config-generator")
    config = ETC / "dragonflow" / "config-generator.conf"
    subprocess.run(
        [generator, "--config-file", config, "--output-file", made], check=True, cwd=ROOT, capture_output=True
    )
    current = (ETC / "dragonflow" / "dragonflow.conf.sample").read_text()
    assert made.read_text() == current, "options have changed: run `make generate`"


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd on this machine")
    units = [tmp_path / file.name for file in (ETC / "systemd").glob("*.service")]
    for unit in units:
        text = (ETC / "systemd" / unit.name).read_text()
        unit.write_text(text.replace("/usr/local/bin/dragonflow", "/bin/true"))  # it wants the program to exist
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [unit.name for unit in units if unit.name in done.stderr]


def test_the_unit_restarts_and_keeps_what_others_use() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(ETC / "systemd" / "dragonflow-controller.service")
    assert unit["Service"]["Restart"] == "on-failure"  # "always" would undo an operator's `dragonflow shutdown`
    assert "stopping" in unit["Service"]["ExecStop"]
    assert unit["Service"]["RuntimeDirectoryPreserve"] == "yes"  # Neutron's sockets lie there too
