"""A sheet to draw on: boxes, texts and paths, written as one self-contained SVG; and the colours of the demo's drawings."""

from __future__ import annotations

from html import escape

WIDTH = 1180
MARGIN = 40

INK, FAINT, LINE, PAPER, PANEL = "#1c2733", "#66788a", "#c9d3dd", "#f6f8fa", "#ffffff"
GOOD, BAD, NEUTRAL = "#2f9e63", "#d64545", "#e6ebf0"
TUNNEL = "#7a5fd0"

Rect = tuple[float, float, float, float]
"""x, y, width, height."""


class Canvas:
    """Collects elements; the y axis points down, units are pixels."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def box(self, rect: Rect, fill: str, edge: str, radius: int = 10) -> None:
        """A rectangle with round corners."""
        x, y, width, height = rect
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}" '
            f'fill="{fill}" stroke="{edge}" stroke-width="1.3"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int = 13,
        colour: str = INK,
        *,
        weight: int = 400,
        anchor: str = "start",
    ) -> None:
        """A line of text; ``anchor`` says whether it starts, ends, or has its middle at ``x``."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" font-weight="{weight}" '
            f'text-anchor="{anchor}">{escape(text)}</text>'
        )

    def path(self, path: str, colour: str, *, width: float = 1.6, dashed: bool = False, arrow: bool = False) -> None:
        """A line along an SVG path."""
        extra = ' stroke-dasharray="5 5"' if dashed else ""
        extra += ' marker-end="url(#arrow)"' if arrow else ""
        self.parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{extra}/>')

    def dot(self, x: float, y: float, radius: float, fill: str) -> None:
        """A filled circle."""
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}"/>')

    def svg(self, height: float) -> str:
        """All of it, as the text of a file."""
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
                f"height=\"{height:.0f}\" font-family=\"'Inter','Segoe UI','Helvetica Neue',Arial,sans-serif\">",
                '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
                f'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="{FAINT}"/></marker></defs>',
                f'<rect width="100%" height="100%" fill="{PAPER}"/>',
                *self.parts,
                "</svg>\n",
            )
        )
