"""The demo's topology as one self-contained SVG: chassis, VMs, tunnels, who reaches whom, and times from plug to ACTIVE."""

from __future__ import annotations

from collections.abc import Sequence

from dragonflow.lab.canvas import BAD, FAINT, GOOD, LINE, MARGIN, NEUTRAL, PANEL, TUNNEL, WIDTH, Canvas
from dragonflow.lab.scenario import FAMILIES, Machine, Reached, Tenant, wanted

GAP = 30
CHIP_HEIGHT, CHIP_STEP = 74, 86
CELL = 34
BUS = 26
"""How far above the chassis the line runs on which rows come down from the DF DB."""

TENANT_COLOURS = (("#fff3d6", "#c98a00"), ("#dfeeff", "#2b74c7"))
"""Fill and edge, by tenant in order of appearance."""


Hosts = Sequence[tuple[str, str]]
"""Name and VTEP of each."""

Colours = dict[Tenant, tuple[str, str]]


def draw(hosts: Hosts, machines: Sequence[Machine], reached: Reached, failures: int, store: str = "SQLite") -> str:
    """The whole drawing, as the text of an SVG file. ``failures`` says how many expectations were not met."""
    canvas = Canvas()
    tenants = list(dict.fromkeys(machine.tenant for machine in machines))
    colours = {tenant: TENANT_COLOURS[number % len(TENANT_COLOURS)] for number, tenant in enumerate(tenants)}

    canvas.text(MARGIN, 52, "Dragonflow, one region", 26, weight=700)
    answered = sum(reached.values())
    pings = f"{answered} pings answered, {len(reached) - answered} kept apart"
    verdict = "all as it should be" if not failures else f"{failures} not as it should be"
    canvas.text(MARGIN, 78, f"{len(hosts)} chassis, {len(tenants)} tenants on the same addresses", 14, FAINT)
    canvas.text(WIDTH - MARGIN, 52, verdict, 20, GOOD if not failures else BAD, weight=700, anchor="end")
    canvas.text(WIDTH - MARGIN, 78, pings, 14, FAINT, anchor="end")

    bottom = _control_plane(canvas, 104, store)
    bottom = _chassis(canvas, bottom + 54, hosts, machines, colours)
    end = max(_matrix(canvas, bottom + 60, machines, reached, colours), _times(canvas, bottom + 60, machines, colours))
    return canvas.svg(end + MARGIN)


def _control_plane(canvas: Canvas, top: float, store: str) -> float:
    """Neutron, the DF DB and Nova in a row, and how news goes between them; returns where it ends."""
    boxes = (("Nova", "a stand-in"), ("Neutron", "ML2 driver df, MariaDB"), ("DF DB", store))
    width = (WIDTH - 2 * MARGIN - 2 * 150) / len(boxes)
    height = 58
    for number, (name, note) in enumerate(boxes):
        x = MARGIN + number * (width + 150)
        canvas.box((x, top, width, height), PANEL, LINE)
        canvas.text(x + width / 2, top + 26, name, 16, weight=600, anchor="middle")
        canvas.text(x + width / 2, top + 45, note, 12, FAINT, anchor="middle")
        if number:
            middle = x - 75
            canvas.path(f"M{x - 140:.0f} {top + 22}H{x - 10:.0f}", FAINT, arrow=True)
            canvas.path(f"M{x - 10:.0f} {top + 40}H{x - 140:.0f}", FAINT, arrow=True)
            above, below = (("ports", "network-vif-plugged"), ("rows", "port status"))[number - 1]
            canvas.text(middle, top + 15, above, 11, FAINT, anchor="middle")
            canvas.text(middle, top + 55, below, 11, FAINT, anchor="middle")
    return top + height


def _chassis(canvas: Canvas, top: float, hosts: Hosts, machines: Sequence[Machine], colours: Colours) -> float:
    """A panel a host with its VMs on br-int, fed from above, and tunnels between all of them; returns where it ends."""
    width = (WIDTH - 2 * MARGIN - GAP * (len(hosts) - 1)) / len(hosts)
    most = max(sum(machine.host == host for machine in machines) for host, _ in hosts)
    rows = (most + 1) // 2
    height = 70 + rows * CHIP_STEP + 52
    feet = []
    first, last = MARGIN + width / 2, WIDTH - MARGIN - width / 2
    canvas.path(f"M{last:.0f} {top - 54}V{top - BUS}H{first:.0f}", FAINT)
    canvas.text(MARGIN, top - BUS + 4, "rows, by scope", 11, FAINT)
    for number, (host, vtep) in enumerate(hosts):
        x = MARGIN + number * (width + GAP)
        foot = x + width / 2
        canvas.path(f"M{foot:.0f} {top - BUS}V{top - 4}", FAINT, arrow=True)
        canvas.box((x, top, width, height), PANEL, LINE, 14)
        canvas.text(x + 18, top + 30, host, 17, weight=700)
        canvas.text(x + width - 18, top + 30, f"VTEP {vtep}", 12, FAINT, anchor="end")
        canvas.text(x + 18, top + 50, "dragonflow controller", 12, FAINT)
        bridge = top + height - 46
        for place, machine in enumerate(machine for machine in machines if machine.host == host):
            chip = (width - 18 * 3) / 2
            left = x + 18 + (place % 2) * (chip + 18)
            _chip(canvas, (left, top + 64 + place // 2 * CHIP_STEP), chip, machine, colours[machine.tenant])
        canvas.box((x + 18, bridge, width - 36, 30), "#eef1f5", "#9fb0c0", 6)
        canvas.text(foot, bridge + 20, "br-int · Open vSwitch", 12, anchor="middle")
        feet.append((foot, top + height))
    for number, (left, y) in enumerate(feet):
        for far, (right, _) in enumerate(feet[number + 1 :], 1):
            dip = y + 34 * far
            offset = 6 * far
            start, end = left + offset, right - offset
            canvas.path(
                f"M{start:.0f} {y}C{start:.0f} {dip + 16} {end:.0f} {dip + 16} {end:.0f} {y}",
                TUNNEL,
                width=2.2,
                dashed=True,
            )
    if len(feet) > 1:
        y = top + height + 34 * (len(feet) - 1) + 22
        canvas.text(WIDTH / 2, y, "Geneve tunnels, one flow-based port a chassis", 12, TUNNEL, anchor="middle")
        return y
    return top + height


def _chip(canvas: Canvas, corner: tuple[float, float], width: float, machine: Machine, colour: tuple[str, str]) -> None:
    (x, y), (fill, edge) = corner, colour
    canvas.box((x, y, width, CHIP_HEIGHT), fill, edge, 8)
    good = machine.status == "ACTIVE"
    canvas.dot(x + width - 14, y + 15, 5, GOOD if good else BAD)
    canvas.text(x + 10, y + 20, machine.name, 13, weight=600)
    for line, ip in enumerate(machine.ips.values()):
        canvas.text(x + 10, y + 39 + 16 * line, ip, 11)
    took = machine.status if machine.active is None else f"{machine.active * 1000:.0f} ms"
    canvas.text(x + width - 10, y + 39 + 16, took, 11, FAINT if good else BAD, anchor="end")


def _matrix(canvas: Canvas, top: float, machines: Sequence[Machine], reached: Reached, colours: Colours) -> float:
    """Senders down, receivers across, each cell split in IPv4 (left) and IPv6 (right); returns where it ends."""
    canvas.text(MARGIN, top, "Who reaches whom", 17, weight=700)
    canvas.text(MARGIN, top + 20, "row pings column; left half IPv4, right half IPv6", 12, FAINT)
    x0, y0 = MARGIN + 84, top + 78
    for number, machine in enumerate(machines):
        colour = colours[machine.tenant][1]
        canvas.text(x0 - 10, y0 + number * CELL + 22, machine.name, 12, colour, weight=600, anchor="end")
        across = x0 + number * CELL + CELL / 2
        canvas.parts.append(f'<g transform="translate({across + 4:.0f} {y0 - 8:.0f}) rotate(-42)">')
        canvas.text(0, 0, machine.name, 11, colour, weight=600)
        canvas.parts.append("</g>")
    for row, source in enumerate(machines):
        for column, target in enumerate(machines):
            for half, version in enumerate(FAMILIES):
                x, y = x0 + column * CELL + half * (CELL - 4) / 2 + 2, y0 + row * CELL + 2
                fill = NEUTRAL
                if source is not target:
                    answered = reached[source.name, target.name, version]
                    fill = BAD if answered != wanted(source, target) else GOOD if answered else "#ffffff"
                canvas.parts.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{(CELL - 4) / 2 - 1:.1f}" height="{CELL - 4}" rx="3" '
                    f'fill="{fill}" stroke="{LINE}"/>'
                )
    end = y0 + len(machines) * CELL + 26
    for number, (fill, meaning) in enumerate(
        ((GOOD, "answers"), ("#ffffff", "isolated"), (BAD, "not as it should be"))
    ):
        x = x0 + number * 100
        canvas.box((x, end - 11, 12, 12), fill, LINE, 3)
        canvas.text(x + 18, end, meaning, 12, FAINT)
    return end


def _times(canvas: Canvas, top: float, machines: Sequence[Machine], colours: Colours) -> float:
    """A bar a port: from the plug to ACTIVE in Neutron's API; returns where it ends."""
    x0, right = WIDTH / 2 + 30, WIDTH - MARGIN
    canvas.text(x0, top, "From plug to ACTIVE", 17, weight=700)
    canvas.text(x0, top + 20, "in Neutron's API, with all that happens in between", 12, FAINT)
    longest = max((machine.active or 0.0 for machine in machines), default=0.0) or 1.0
    room = right - x0 - 84 - 70
    y = top + 78
    for machine in machines:
        fill, edge = colours[machine.tenant]
        canvas.text(x0 + 74, y + 22, machine.name, 12, edge, weight=600, anchor="end")
        if machine.active is None:
            canvas.text(x0 + 84, y + 22, machine.status, 12, BAD)
        else:
            width = max(room * machine.active / longest, 3)
            canvas.box((x0 + 84, y + 8, width, CELL - 14), fill, edge, 4)
            canvas.text(x0 + 92 + width, y + 22, f"{machine.active * 1000:.0f} ms", 12, FAINT)
        y += CELL
    return y
