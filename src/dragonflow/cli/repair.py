"""``dragonflow repair``: compare Neutron's database with the DF DB, and mend the DF DB."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dragonflow.cli.common import Json, fail, print_rows
from dragonflow.store.protocol import StoreError


def repair(
    config_file: Annotated[list[str], typer.Option("--config-file", help="Neutron's files: neutron.conf, then ML2's.")],
    fix: Annotated[bool, typer.Option("--fix", help="Mend the DF DB; without it, only report.")] = False,
    as_json: Json = False,
) -> None:
    """Compare Neutron's database with the DF DB. Neutron is always right. Exit code 2: differences are left."""
    try:
        from dragonflow.neutron import repair as neutron_repair  # noqa: PLC0415 - only where Neutron is installed
    except ImportError as error:
        raise fail(f"Neutron is needed here ({error}); run this on a Neutron server") from error
    try:
        report = neutron_repair.run(config_file, fix)
    except StoreError as error:
        raise fail(f"[df] store_url: {error}") from error
    findings = [finding._asdict() for finding in report.findings]
    if as_json:
        counts = {"objects": report.objects, "pending": report.pending, "clean": report.clean}
        typer.echo(json.dumps({"findings": findings, **counts}, indent=2))
    elif findings:
        print_rows(f"{len(findings)} differences", findings, ["kind", "id", "difference", "fixed"], as_json=False)
    if not as_json:
        typer.echo(f"{report.objects} objects compared, {report.pending} more wait in the journal and were not judged")
    if not report.clean:
        raise typer.Exit(2)
