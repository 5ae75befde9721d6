"""Draws docs/pictures/architecture.svg, the figure of docs/architecture.md.

python docs/figure.py      # at once
"""

import pathlib
import re

PATH = pathlib.Path(__file__).parent / "pictures" / "architecture.svg"
WIDTH, HEIGHT, MIDDLE = 1064, 300, 132
HALF = 38  # of a network's width
SANS, SERIF, MONO = "Helvetica, Arial, sans-serif", "Georgia, serif", "Menlo, Consolas, monospace"
INK, GREY = "#26323f", "#66727f"
PAPER, EDGE = "#fdfcf8", "#d8d5cc"  # a sheet of its own reads alike in light and dark
IMAGES, VIDEOS, BOTH, FROZEN = "#3f7cc4", "#cf7a24", "url(#both)", "#8b96a3"

# Where it stands, its sign in the paper with what is above and below, its name in the code, its
# shape, what it learns from, and what it is told besides.
NETWORKS = (
    (146, "CLIP", "", "", "clip", "block", FROZEN, ""),
    (266, "P", "", "", "prior", "block", IMAGES, ""),
    (386, "D", "t", "", "decoder", "hourglass", BOTH, "fps"),
    (560, "↑F", "", "", "interpolation", "hourglass", VIDEOS, "fps, skip"),
    (734, "SR", "t", "l", "sr_256", "growing", BOTH, ""),
    (912, "SR", "", "h", "sr_768", "growing", IMAGES, ""),
)
# What goes between: where, side of a frame, how many are drawn, how many there are of which size.
PILES = (
    (473, 24, 3, "16x64x64"),
    (647, 24, 6, "76x64x64"),
    (823, 34, 6, "76x256x256"),
    (1008, 50, 6, "76x768x768"),
)
STEP = 3  # pixels between the frames of a pile
OUTLINES = dict(
    block="M-38-42h76v84h-76z",
    hourglass="M-38-42L0-22L38-42V42L0,22L-38,42z",
    growing="M-38-22L38-42V42L-38,22z",
)
SIGNS = dict(above=-8, below=7)
LEGEND = (  # where, colour and words
    (40, IMAGES, "learns from captioned images"),
    (300, VIDEOS, "learns from silent videos"),
    (525, BOTH, "from images first, then from silent videos"),
    (865, FROZEN, "trained before them"),
)


def text(x: float, y: float, words: str, size: int, color: str = INK, font: str = SANS, **more):
    """Words, in the middle of x unless said otherwise."""
    words = re.sub(r"(?<=[\dn])x(?=[\de])", "&#215;", words)  # the sign of products
    more = {"text-anchor": "middle"} | {name.replace("_", "-"): v for name, v in more.items()}
    rest = " ".join(f'{name}="{value}"' for name, value in more.items())
    where = f'x="{x}" y="{y}" font-size="{size}" font-family="{font}" fill="{color}"'
    return f"<text {where} {rest}>{words}</text>"


def arrow(start: float, end: float, sign: str = "", shape: str = "") -> str:
    """From left to right, with what goes along it above, and its shape below."""
    middle = (start + end) / 2 - 3
    line = f'<path d="M{start},{MIDDLE}H{end - 4}" stroke="{GREY}" marker-end="url(#tip)"/>'
    above = text(middle, MIDDLE - 9, sign, 16, INK, SERIF, font_style="italic") if sign else ""
    return line + above + (text(middle, MIDDLE + 17, shape, 11, GREY) if shape else "")


def network(x, sign, above, below, name, shape, color, told) -> str:
    """A network, its signs and name."""
    marks = "".join(
        f'<tspan x="{x + 9 * len(sign) - 4}" y="{MIDDLE + 7 + lift}" font-size="13">{mark}</tspan>'
        for mark, lift in ((above, -9), (below, 7))
    )
    shift = 5 if above or below else 0
    style = dict(font_style="italic") if name != "clip" else {}
    parts = [
        f'<path d="{OUTLINES[shape]}" transform="translate({x},{MIDDLE})" fill="{color}"/>',
        text(x - shift, MIDDLE + 7, sign + marks, 21, "white", SERIF, **style),
        text(x, MIDDLE + 66, name, 14, INK, MONO),
    ]
    if told:
        down = f"M{x},{MIDDLE - 58}V{MIDDLE - 36 if shape == 'hourglass' else MIDDLE - 44}"
        parts.append(text(x, MIDDLE - 66, told, 13, GREY))
        parts.append(f'<path d="{down}" stroke="{GREY}" marker-end="url(#tip)"/>')
    return "".join(parts)


def pile(x: float, side: float, frames: int, shape: str) -> str:
    """Frames of a red ball over a green meadow."""
    parts = []
    for i in reversed(range(frames)):
        shift = (i - (frames - 1) / 2) * STEP
        parts.append(
            f'<g transform="translate({x + shift},{MIDDLE - shift}) scale({side})">'
            '<path d="M-.5-.5h1v1h-1z" fill="#bfe0f2"/>'
            '<path d="M-.5,.2Q0,.05 .5,.25V.5H-.5z" fill="#79b356"/>'
            f'<circle cy="{-0.1 - 0.05 * (i % 3):.2f}" r=".18" fill="#d8412f"/>'
            f'<path d="M-.5-.5h1v1h-1z" fill="none" stroke="{INK}" stroke-width="{0.7 / side}"/>'
            "</g>"
        )
    return "".join(parts) + text(x, MIDDLE + 88, shape, 13, GREY)


def draw() -> str:
    """The figure."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" fill="none">',
        "<title>From a sentence to a video: five networks, and what each learns from</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0,0L8,4L0,8z" fill="{GREY}"/></marker>',
        f'<linearGradient id="both"><stop offset=".5" stop-color="{IMAGES}"/>'
        f'<stop offset=".5" stop-color="{VIDEOS}"/></linearGradient></defs>',
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="12" fill="{PAPER}" '
        f'stroke="{EDGE}"/>',
    ]
    words = ("“a red ball", "over a green", "meadow”")
    parts += [text(51, MIDDLE - 12 + 18 * i, line, 13, INK, SERIF) for i, line in enumerate(words)]
    places = [x for x, *_ in NETWORKS]
    parts.append(arrow(places[0] - HALF - 12, places[0] - HALF + 2))
    parts.append(arrow(places[0] + HALF, places[1] - HALF, "eₜ", "nxe, d"))
    parts.append(arrow(places[1] + HALF, places[2] - HALF, "eᵢ", "d"))
    for (x, side, frames, _), left, right in zip(
        PILES, places[2:], [*places[3:], None], strict=True
    ):
        half = side / 2 + STEP * (frames - 1) / 2
        parts.append(arrow(left + HALF + 3, x - half - 3))
        if right is not None:
            parts.append(arrow(x + half + 3, right - HALF - 2))
    parts += [network(*row) for row in NETWORKS]
    parts += [pile(*row) for row in PILES]
    for x, color, line in LEGEND:
        parts.append(f'<path d="M{x},257h16v16h-16z" fill="{color}"/>')
        parts.append(text(x + 24, 270, line, 14, INK, text_anchor="start"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def main() -> None:
    """Writes the figure."""
    PATH.write_text(draw(), "utf-8")


if __name__ == "__main__":
    main()
