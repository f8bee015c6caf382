"""The picture of `make demo`: two regions, what joins them and what doesn't, and who reached whom at each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dragonflow.lab.canvas import BAD, FAINT, GOOD, INK, LINE, MARGIN, NEUTRAL, PANEL, TUNNEL, WIDTH, Canvas
from dragonflow.lab.scenario import FAMILIES
from dragonflow.lab.stretched import NETWORK, Guest, Reached, Story, wanted

GAP = 90
"""Between the regions: what crosses it is all that they have in common."""

CHIP_HEIGHT, CHIP_STEP = 66, 76
CELL = 30
FILL, EDGE = "#dfeeff", "#2b74c7"

Hosts = Mapping[str, Sequence[tuple[str, str]]]
"""By region, the name and VTEP of each chassis."""


def draw(hosts: Hosts, story: Story, failures: int) -> str:
    """The whole drawing, as the text of an SVG file. ``failures`` says how many expectations were not met."""
    canvas = Canvas()
    canvas.text(MARGIN, 52, "Dragonflow, one network over two regions", 26, weight=700)
    canvas.text(MARGIN, 78, "each a Neutron, a DF DB and chassis of its own", 14, FAINT)
    verdict = "all as it should be" if not failures else f"{failures} not as it should be"
    canvas.text(WIDTH - MARGIN, 52, verdict, 20, GOOD if not failures else BAD, weight=700, anchor="end")
    canvas.text(WIDTH - MARGIN, 78, _times(story), 14, FAINT, anchor="end")

    width = (WIDTH - 2 * MARGIN - GAP * (len(hosts) - 1)) / len(hosts)
    middle = WIDTH / 2
    canvas.box((middle - 130, 104, 260, 46), PANEL, LINE)
    canvas.text(middle, 124, "orchestrator", 15, weight=600, anchor="middle")
    canvas.text(middle, 141, "speaks with the APIs alone", 11, FAINT, anchor="middle")
    bottom = 0.0
    feet: list[list[tuple[float, float]]] = []
    for number, (region, chassis) in enumerate(hosts.items()):
        x = MARGIN + number * (width + GAP)
        edge = x + width / 2
        canvas.path(f"M{middle + (130 if number else -130):.0f} 127H{edge:.0f}V182", FAINT, arrow=True)
        found, bottom = _region(canvas, (x, 184, width), region, chassis, story)
        feet.append(found)
    _tunnels(canvas, feet, bottom)
    end = _stages(canvas, bottom + 110, story)
    return canvas.svg(end + MARGIN)


def _times(story: Story) -> str:
    joined = f"joined in {story.joined_after:.1f} s" if story.joined_after is not None else "not joined"
    left = f", gone in {story.left_after:.1f} s" if story.left_after is not None else ""
    moved = f", {story.moved.silent * 1000:.0f} ms without an answer in a live migration" if story.moved else ""
    return joined + left + moved


def _region(
    canvas: Canvas, place: tuple[float, float, float], region: str, chassis: Sequence[tuple[str, str]], story: Story
) -> tuple[list[tuple[float, float]], float]:
    """A region's panel, as high as any; returns the feet of its chassis, from where tunnels go, and where the panel ends."""
    x, y, width = place
    segment = next((side.segmentation_id for side in story.sides if side.region == region), None)
    homes = [(guest.region, guest.host) for guest in story.guests]
    inner = 92 + max(map(homes.count, homes), default=1) * CHIP_STEP
    height = 74 + inner
    canvas.box((x, y, width, height), "#fbfcfd", LINE, 14)
    canvas.text(x + 18, y + 28, region, 17, weight=700)
    canvas.text(x + 18, y + 48, "Neutron · MariaDB · DF DB", 12, FAINT)
    canvas.text(x + width - 18, y + 28, f"{NETWORK}: VNI {segment}", 13, EDGE, weight=600, anchor="end")
    feet = []
    each = (width - 18 * (len(chassis) + 1)) / len(chassis)
    for number, (host, vtep) in enumerate(chassis):
        left, top = x + 18 + number * (each + 18), y + 62
        canvas.box((left, top, each, inner), PANEL, LINE, 10)
        canvas.text(left + 14, top + 24, host, 14, weight=600)
        canvas.text(left + each - 14, top + 24, vtep, 11, FAINT, anchor="end")
        here = [guest for guest in story.guests if (guest.region, guest.host) == (region, host)]
        for row, guest in enumerate(here):
            _chip(canvas, (left + 12, top + 38 + row * CHIP_STEP), each - 24, guest, story)
        bridge = top + inner - 40
        canvas.box((left + 12, bridge, each - 24, 28), "#eef1f5", "#9fb0c0", 6)
        canvas.text(left + each / 2, bridge + 18, "br-int", 12, anchor="middle")
        feet.append((left + each / 2, y + height))
    return feet, y + height


def _chip(canvas: Canvas, corner: tuple[float, float], width: float, guest: Guest, story: Story) -> None:
    x, y = corner
    canvas.box((x, y, width, CHIP_HEIGHT), FILL, EDGE, 8)
    canvas.dot(x + width - 14, y + 15, 5, GOOD if guest.active is not None else BAD)
    canvas.text(x + 10, y + 20, guest.name, 12, weight=600)
    for line, ip in enumerate(guest.ips.values()):
        canvas.text(x + 10, y + 38 + 16 * line, ip, 11)
    if story.moved is not None and story.moved.guest == guest.name:
        canvas.text(x + width - 10, y + CHIP_HEIGHT - 12, f"moved, from {story.moved.source}", 11, EDGE, anchor="end")


def _tunnels(canvas: Canvas, feet: Sequence[Sequence[tuple[float, float]]], bottom: float) -> None:
    """From each chassis to each of the other region."""
    for near in feet[0]:
        for far in feet[-1]:
            dip = bottom + 26 + (far[0] - near[0]) / 22
            canvas.path(
                f"M{near[0]:.0f} {bottom:.0f}C{near[0]:.0f} {dip:.0f} {far[0]:.0f} {dip:.0f} {far[0]:.0f} {bottom:.0f}",
                TUNNEL,
                width=2,
                dashed=True,
            )
    canvas.text(
        WIDTH / 2, bottom + 76, "tunnels over IP, from chassis to chassis, made on demand", 12, TUNNEL, anchor="middle"
    )


def _stages(canvas: Canvas, top: float, story: Story) -> float:
    """A matrix a stage; returns where they end."""
    stages: list[tuple[str, Reached, bool]] = [
        ("Before", story.apart, False),
        ("Joined", story.joined, True),
        ("After one side has left", story.left, False),
    ]
    regions = {guest.name: guest.region for guest in story.guests}
    width = (WIDTH - 2 * MARGIN) / len(stages)
    for number, (title, reached, stretched) in enumerate(stages):
        x0 = MARGIN + number * width
        canvas.text(x0, top, title, 16, weight=700)
        for row, source in enumerate(story.guests):
            y = top + 20 + row * CELL
            canvas.text(x0 + 100, y + 20, source.name, 11, INK, anchor="end")
            for column, target in enumerate(story.guests):
                for half, version in enumerate(FAMILIES):
                    fill = NEUTRAL
                    if source is not target and reached:
                        ok = reached[source.name, target.name, version]
                        good = ok == wanted(regions, source.name, target.name, stretched=stretched)
                        fill = BAD if not good else GOOD if ok else "#ffffff"
                    x = x0 + 108 + column * CELL + half * (CELL - 4) / 2
                    canvas.box((x, y, (CELL - 4) / 2 - 1, CELL - 4), fill, LINE, 3)
    end = top + 20 + len(story.guests) * CELL + 22
    note = (
        "row pings column, left half IPv4, right half IPv6; green answers, white is apart, red is not as it should be"
    )
    canvas.text(MARGIN, end, note, 12, FAINT)
    return end
