"""How settings and objects of the cutout world look, as fragments of SVG.

Everything is drawn on a canvas of 768 x 768. Depth comes from translucent copies below each paper
layer instead of blur filters and group opacity, which cost resvg ten times more.
"""

# ruff: noqa: E501 (a path reads no better in pieces)
import math
from collections.abc import Sequence

CANVAS = 768

PAINTS = {  # colour -> paper as lit from above, plain, and in shade
    "red": ("#f5564a", "#dd2424", "#a81222"),
    "orange": ("#ffa63d", "#f67d0c", "#c95a00"),
    "yellow": ("#ffe866", "#fbd010", "#d9a300"),
    "green": ("#4cc765", "#1f9d3f", "#0f6e2c"),
    "blue": ("#4f8ff5", "#1d5fe0", "#0f3fa6"),
    "purple": ("#a862e0", "#8130c0", "#591c8c"),
    "pink": ("#ffa3cf", "#fb74b4", "#d64a8d"),
    "white": ("#ffffff", "#fafafc", "#dde0ea"),
}


def _gradient(name: str, *stops: str, slant: float = 0) -> str:
    """A linear gradient from top to bottom. slant: how far its end leans right, in box widths."""
    marks = "".join(
        f'<stop offset="{i / (len(stops) - 1):.3f}" stop-color="{colour}"/>'
        for i, colour in enumerate(stops)
    )
    return f'<linearGradient id="{name}" x1="0" y1="0" x2="{slant}" y2="1">{marks}</linearGradient>'


def _mix(a: str, b: str, share: float) -> str:
    """The colour `share` of the way from a to b; both are #rrggbb."""
    pairs = zip(bytes.fromhex(a[1:]), bytes.fromhex(b[1:]), strict=True)
    return "#" + bytes(round(x + share * (y - x)) for x, y in pairs).hex()


def _backdrop(mood: str, share: float, *stops: str) -> str:
    """Air from the top down, mixed with a share (in [0, 1]) of the scene's mood."""
    stops = [_mix(stop, mood, 0.3 * share) for stop in stops]
    # Down to where every setting has ground, as gradients are dear.
    return _gradient("air", *stops) + '<rect width="768" height="700" fill="url(#air)"/>'


def _layer(top: str, low: float, fill: str, edge: str, dx: float = 0, dy: float = 0) -> str:
    """A sheet of paper: its shadow on what lies behind, its bright cut edge, its face.

    top: path along its upper edge, from left to right. low: a height that is below all of it."""
    # Shadow and edge reach down only so far as they show: translucent pixels are the dear ones.
    strip = f"{top}V{low + 16:.0f}H-200Z"
    shadow = "".join(
        f'<path d="{strip}" fill-opacity=".08" transform="translate(0 {-rise})"/>'
        for rise in (13, 6)
    )
    return (
        f'<g transform="translate({dx:.1f} {dy:.1f})">{shadow}<path d="{strip}" fill="{edge}"/>'
        f'<path d="{top}V900H-200Z" fill="{fill}" transform="translate(0 3.5)"/></g>'
    )


def _hills(y: float, height: float, u: Sequence[float], bumps: float = 1.0) -> str:
    """Upper edge of rolling ground, wider than the frame. y, height: in pixels; u: two numbers."""
    xs = range(-96, 961, 96)
    ys = [
        y
        - height * 0.6 * math.sin(bumps * x / 122 + 6.3 * u[0])
        - height * 0.4 * math.sin(bumps * x / 71 + 6.3 * u[1])
        for x in xs
    ]
    path = [f"M{xs[0]} {ys[0]:.0f}"]
    for x, a, b in zip(xs[1:], ys[1:], ys[2:], strict=False):
        path.append(f"Q{x} {a:.0f} {x + 48} {(a + b) / 2:.0f}")
    return "".join(path)


def _waves(y: float, length: float, height: float) -> str:
    """Upper edge of water with waves of this length, wider than the frame by some of them."""
    half = length / 2
    crests = f"q{half / 2:.0f} {-height:.0f} {half:.0f} 0" + f"t{half:.0f} 0" * int(
        (900 + 2 * length) / half
    )
    return f"M{-1.5 * length:.0f} {y:.0f}{crests}"


def _bank(y: float, width: float, u: Sequence[float]) -> str:
    """Upper edge of a bank of cloud puffs, each about `width` wide."""
    path = f"M-120 {y:.0f}"
    for i in range(int(1400 / width)):
        step = width * (0.75 + 0.5 * u[i % len(u)])
        path += (
            f"c{step * 0.1:.0f} {-step * 0.44:.0f} {step * 0.9:.0f} {-step * 0.44:.0f} {step:.0f} 0"
        )
    return path


def _cloud(x: float, y: float, scale: float, face: str = "#fff", shade: str = "#d6e9f7") -> str:
    puff = "M-108 34a36 36 0 0 1 6-71a62 62 0 0 1 112-24a50 50 0 0 1 78 32a33 33 0 0 1 12 63Z"
    belly = "M-108 34a36 36 0 0 1-30-24c40 14 70-16 108-6s60 20 90 0 40-6 66 2a33 33 0 0 1-26 28Z"
    return (
        f'<g transform="translate({x:.1f} {y:.1f}) scale({scale:.2f})">'
        f'<path d="{puff}" fill-opacity=".05" transform="translate(5 13)"/>'
        f'<path d="{puff}" fill-opacity=".07" transform="translate(3 7)"/>'
        f'<path d="{puff}" fill="{face}"/>'
        f'<path d="{belly}" fill="{shade}" fill-opacity=".75"/></g>'
    )


def _drift(start: float, speed: float, t: float) -> float:
    """Where something of half width below 160 px is that leaves on one side and enters opposite."""
    return (start * 1088 + speed * t) % 1088 - 160


def _sun(x: float, y: float, radius: float, colour: str, glow: str) -> str:
    rings = "".join(
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{radius * k:.0f}" fill="{glow}" fill-opacity=".16"/>'
        for k in (2.0, 1.45)
    )
    return (
        f'{rings}<circle cx="{x:.0f}" cy="{y + 5:.0f}" r="{radius:.0f}" fill-opacity=".1"/>'
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{radius:.0f}" fill="{colour}"/>'
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{radius * 0.82:.0f}" fill="#fff" fill-opacity=".22"/>'
    )


def _pine(x: float, y: float, scale: float, face: str, edge: str) -> str:
    return (
        f'<g transform="translate({x:.1f} {y:.1f}) scale({scale:.2f})">'
        f'<path d="M-30 0 8-128 46 0Z" fill-opacity=".1"/><path d="M-5-20h10v34h-10z" fill="{face}"/>'
        f'<path d="M-38 0 0-64 38 0ZM-31-34 0-94 31-34ZM-23-68 0-122 23-68Z" fill="{face}"/>'
        f'<path d="M0-64-38 0C-20-8-14-22 0-22ZM0-94-31-34C-16-40-10-52 0-54ZM0-122-23-68C-10-74-6-84 0-88Z"'
        f' fill="{edge}"/></g>'
    )


def sky(u: Sequence[float], t: float, pan: float) -> tuple[str, str]:
    """Blue air, a sun, drifting clouds, and banks of cloud below."""
    back = _backdrop("#f2d9ff", u[90], "#3d9be9", "#86cbf7", "#d4effd")
    back += _sun(150 + 470 * u[0] + 0.4 * pan, 120 + 60 * u[1], 58, "#ffe27a", "#fff3c0")
    back += _cloud(_drift(u[2], 9, t), 150 + 70 * u[3], 0.75, "#eef8ff", "#c3e2f8")
    back += _cloud(_drift(u[2] + 0.36 + 0.2 * u[4], 14, t), 300 + 90 * u[5], 1.0)
    back += _cloud(_drift(u[2] + 0.7 + 0.2 * u[6], 19, t), 440 + 60 * u[7], 1.15)
    back += _layer(_bank(640, 190, u[8:12]), 642, "#c2e1f8", "#dff0fc", 0.8 * pan)
    back += _layer(_bank(690, 150, u[12:16]), 692, "#ddeffc", "#fff", 0.4 * pan)
    return back, _layer(_bank(752, 170, u[16:20]), 754, "#fff", "#fff", -0.8 * pan)


def meadow(u: Sequence[float], t: float, pan: float) -> tuple[str, str]:
    """Green hills with trees, flowers and grass under a mild sky."""
    back = _backdrop("#fff0b8", u[90], "#8ad4f5", "#c8edf4", "#f6fbd9")
    back += _sun(140 + 490 * u[0] + 0.5 * pan, 130 + 40 * u[1], 54, "#ffd95a", "#fff0b0")
    back += _cloud(_drift(u[2], 8, t), 130 + 60 * u[3], 0.7)
    back += _cloud(_drift(u[2] + 0.5, 13, t), 220 + 60 * u[4], 0.95)
    back += _layer(_hills(430, 46, u[5:8]), 478, "#9fd490", "#c3e8b4", 1.0 * pan)
    back += _layer(_hills(505, 40, u[8:11], 1.2), 547, "#74c168", "#a3dc92", 0.6 * pan)
    for i in range(3):
        x = 80 + 270 * i + 120 * u[11 + i] + 0.6 * pan
        back += (
            f'<g transform="translate({x:.1f} {500 + 20 * u[14 + i]:.0f})">'
            '<path d="M-5 0h10v52h-10z" fill="#7a5638"/><circle cx="6" cy="-2" r="39" fill-opacity=".1"/>'
            '<circle cy="-8" r="38" fill="#2f8a44"/><circle cx="-8" cy="-16" r="25" fill="#4ba458"/></g>'
        )
    back += _layer(_hills(572, 22, u[17:20], 0.9), 596, "#4fae4c", "#86d173")
    petals = ("#fff", "#ffe27a", "#ff9fb8")
    for i in range(9):
        x, y = 40 + 84 * i + 40 * u[20 + i], 640 + 74 * u[29 + i]
        sway = 3 * math.sin(1.6 * t + i)
        back += (
            f'<circle cx="{x + sway:.1f}" cy="{y:.0f}" r="9" fill="{petals[i % 3]}"/>'
            f'<circle cx="{x + sway:.1f}" cy="{y:.0f}" r="3.6" fill="#e8963a"/>'
        )
    wind = 5 * math.sin(1.3 * t + 6.3 * u[38])
    blades = "".join(f"l{14 + wind:.1f}-46 {14 - wind:.1f} 46" for _ in range(33))
    return back, _layer(f"M-60 748{blades}", 749, "#2c8440", "#57ad57", -0.8 * pan)


def sea(u: Sequence[float], t: float, pan: float) -> tuple[str, str]:
    """Rolling waves to a far horizon with a low sun."""
    back = _backdrop("#ffc9d2", u[90], "#a8dcf2", "#d9f0f2", "#ffe6bd", "#ffd9a8")
    back += _sun(170 + 430 * u[0] + 0.5 * pan, 400 - 50 * u[1], 74, "#ffb84d", "#ffdf9a")
    back += _cloud(_drift(u[2], 8, t), 120 + 60 * u[3], 0.8, "#fff", "#e6edf3")
    back += _cloud(_drift(u[2] + 0.5, 12, t), 230 + 50 * u[4], 0.6, "#fff", "#f1e6da")
    sheets = (  # waterline, wave length, height, face, edge, speed in px/s
        (455, 110, 10, "#6cc3da", "#b5e6ee", 9),
        (500, 150, 18, "#3fa6cd", "#8ed4e8", -14),
        (565, 190, 26, "#2587bb", "#6cbfe0", 19),
        (645, 230, 32, "#186ca4", "#4fa5d2", -24),
        (722, 260, 34, "#0f4f86", "#3a8cc0", 30),
    )
    drawn = [
        _layer(
            _waves(y, length, height),
            y + height,
            face,
            edge,
            (speed * t + 300 * u[5 + i]) % length + pan * (0.4 - 0.2 * i),
            0.3 * height * math.sin(1.5 * t + 2 * i + 6.3 * u[10]),
        )
        for i, (y, length, height, face, edge, speed) in enumerate(sheets)
    ]
    return back + "".join(drawn[:4]), drawn[4]


def night(u: Sequence[float], t: float, pan: float) -> tuple[str, str]:
    """A moon and twinkling stars above dark hills."""
    back = _backdrop("#5a2d84", u[90], "#080f30", "#182257", "#3a3c86")
    for i in range(26):
        x, y = 800 * u[i] - 16 + 0.3 * pan, 20 + 440 * u[26 + i] ** 1.3
        radius = (2.2 + 2.6 * u[i - 1]) * (
            1 + 0.35 * math.sin((1 + u[i]) * 1.7 * t + 9 * u[26 + i])
        )
        back += f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{radius:.2f}" fill="#fff7d6"/>'
    x, y = 130 + 500 * u[52] + 0.4 * pan, 140 + 50 * u[53]
    back += "".join(
        f'<circle cx="{x:.1f}" cy="{y:.0f}" r="{r}" fill="#cdd6ff" fill-opacity=".08"/>'
        for r in (150, 118, 92)
    )
    back += (
        f'<g transform="translate({x:.1f} {y:.0f})"><circle r="68" fill="#fbf3cf"/>'
        '<path d="M20-65A68 68 0 1 1-56 38 72 72 0 0 0 20-65Z" fill="#e3d7a6" fill-opacity=".8"/>'
        '<g fill="#d8cb98"><circle cx="-22" cy="-20" r="13"/><circle cx="14" cy="14" r="17"/>'
        '<circle cx="-24" cy="26" r="8"/><circle cx="24" cy="-30" r="7"/></g></g>'
    )
    back += _layer(_hills(500, 54, u[54:57], 1.1), 556, "#2b3270", "#4a5199", 0.9 * pan)
    back += _layer(_hills(565, 36, u[57:60]), 603, "#1d2558", "#39437f", 0.5 * pan)
    for i in range(4):
        scale = 0.55 + 0.35 * u[63 + i]
        back += _pine(60 + 205 * i + 110 * u[60 + i] + 0.3 * pan, 612, scale, "#10173d", "#3d4a90")
    back += _layer(_hills(615, 20, u[67:70], 0.8), 637, "#141b45", "#303a75")
    return back, _layer(_hills(748, 16, u[70:73]), 766, "#0a1030", "#222b60", -0.8 * pan)


def desert(u: Sequence[float], t: float, pan: float) -> tuple[str, str]:
    """Sand dunes, rocks and cacti under a huge pale sun."""
    back = _backdrop("#e86a6a", u[90], "#f28a3c", "#f9b866", "#fde2ae")
    shimmer = 1 + 0.03 * math.sin(1.4 * t)
    back += _sun(170 + 430 * u[0] + 0.5 * pan, 220 + 60 * u[1], 92 * shimmer, "#fff1c4", "#ffe9a8")
    x = -60 + 240 * u[2]
    mesa = f"M-200 470H{x:.0f}l40-110h120l30 40h46l34 70h{190 + 60 * u[3]:.0f}l26-84h104l44 84h400"
    back += _layer(mesa, 472, "#c9683f", "#e59a66", 0.9 * pan)
    back += _layer(_hills(505, 34, u[4:7], 0.8), 541, "#e29a4d", "#f7c983", 0.7 * pan)
    back += _layer(_hills(550, 44, u[7:10], 0.7), 596, "#eeb263", "#fcdc9c", 0.4 * pan)
    for i, x in enumerate((40 + 170 * u[10], 560 + 160 * u[11])):
        back += (
            f'<g transform="translate({x + 0.3 * pan:.1f} {612 + 10 * i}) scale({0.8 + 0.4 * u[12 + i]:.2f})">'
            '<g fill="none" stroke-linecap="round" stroke-linejoin="round">'
            '<path d="M8 0V-118M8-40h-36v-34M8-56h34v-36" stroke="#000" stroke-opacity=".12" stroke-width="24"/>'
            '<path d="M0 0V-122M0-44h-36v-34M0-60h34v-36" stroke="#3f7d4e" stroke-width="24"/>'
            '<path d="M-4 0V-122" stroke="#63a266" stroke-width="6"/></g></g>'
        )
    back += _layer(_hills(608, 24, u[14:17], 0.7), 634, "#dd9142", "#f8c57c")
    for i in range(3):
        back += (
            f'<path d="M{60 + 250 * i} {672 + 20 * i}q60-18 120 0t120 0" fill="none" stroke="#b86f28"'
            ' stroke-opacity=".45" stroke-width="5" stroke-linecap="round"/>'
        )
    return back, _layer(_hills(742, 18, u[17:20], 0.9), 762, "#b8692c", "#e2a05c", -0.8 * pan)


def snow(u: Sequence[float], t: float, pan: float) -> tuple[str, str]:
    """White hills with pines, and snow falling."""
    back = _backdrop("#e6d6f2", u[90], "#9dbad8", "#c6d9ea", "#eaf1f7")
    peaks = "M-200 520"
    for i in range(6):
        peaks += (
            f"L{-100 + 180 * i} {330 + 90 * u[i]:.0f}L{-10 + 180 * i} {440 + 30 * u[6 + i]:.0f}"
        )
    back += _layer(peaks + "L1000 520", 522, "#86a5c6", "#f7fbff", 0.9 * pan)
    caps = "".join(
        f"M{-100 + 180 * i} {330 + 90 * u[i]:.0f}l-34 44 20-8 12 16 16-14 18 8Z" for i in range(6)
    )
    back += f'<path d="{caps}" fill="#f7fbff" transform="translate({0.9 * pan:.1f} 0)"/>'
    back += _layer(_hills(490, 36, u[12:15]), 528, "#c9dbed", "#fff", 0.6 * pan)
    for i in range(5):
        x, scale = 10 + 165 * i + 100 * u[15 + i], 0.75 + 0.4 * u[20 + i]
        back += _pine(x + 0.5 * pan, 560 + 12 * (i % 2), scale, "#3d7468", "#f4f9ff")
    back += _layer(_hills(562, 26, u[25:28], 0.9), 590, "#e0eaf5", "#fff", 0.3 * pan)
    back += _layer(_hills(612, 18, u[28:31], 0.8), 632, "#f3f7fc", "#fff")
    flakes = []
    for i in range(30):
        fall = 60 + 50 * u[i]
        y = (800 * u[31 + i] + fall * t) % 800 - 16
        x = (800 * u[61 - i] + 16 * math.sin(0.9 * t + 9 * u[i]) + 10 * t) % 800 - 16
        flakes.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4.5 + 4.5 * u[i]:.1f}" fill="#fff" fill-opacity=".92"/>'
        )
    front = _layer(_hills(750, 12, u[62:65]), 764, "#fff", "#fff", -0.8 * pan)
    return back + "".join(flakes[:20]), front + "".join(flakes[20:])


def _towers(
    u: Sequence[float], base: float, low: float, high: float, width: float
) -> tuple[str, list[str]]:
    """Upper edge of a row of houses, and three sets of their lit windows."""
    x, outline, windows = -60.0, f"M-60 {base}", ["", "", ""]
    for i in range(int(1150 / width)):
        top = base - low - (high - low) * u[i % len(u)]
        w = width * (0.8 + 0.4 * u[(3 * i + 1) % len(u)])
        outline += f"V{top:.0f}"
        if i % 3 == 1:
            outline += f"h{w * 0.3:.0f}v-22h{w * 0.4:.0f}v22h{w * 0.3:.0f}"
        else:
            outline += f"h{w:.0f}"
        for row in range(int((base - top - 24) / 40)):
            for column in range(int(w / 30)):
                kind = int(97 * u[(i + row) % len(u)] + 31 * u[(column + 2 * row) % len(u)]) % 5
                if kind < 3:
                    windows[kind] += (
                        f"M{x + 12 + 30 * column:.0f} {top + 20 + 40 * row:.0f}h14v20h-14z"
                    )
        x += w
    return outline, windows


def city(u: Sequence[float], t: float, pan: float) -> tuple[str, str]:
    """A skyline at dusk with lit windows, and a street in front."""
    back = _backdrop("#3b4fb0", u[90], "#6a4fa3", "#d0729f", "#ffb48a", "#ffd7a3")
    back += _sun(180 + 400 * u[0] + 0.4 * pan, 300, 70, "#ffe0a0", "#ffd0a0")
    back += _cloud(_drift(u[1], 9, t), 110 + 50 * u[2], 0.7, "#f3bdd0", "#d99cc0")
    rows = (
        (u[3:14], 640, 180, 330, 76, "#a56a9e", "#c98fb4", 0.9, "#ffcf9a"),
        (u[14:25], 640, 110, 270, 92, "#664a8c", "#8d6cac", 0.5, "#ffd877"),
        (u[25:36], 640, 50, 150, 108, "#3d3266", "#655692", 0.2, "#ffe27a"),
    )
    for v, base, low, high, width, face, edge, depth, light in rows:
        outline, windows = _towers(v, base, low, high, width)
        back += _layer(outline, 640, face, edge, depth * pan)
        for i, window in enumerate(windows):
            glow = 0.85 if i == 0 else 0.62 + 0.33 * math.sin((0.7 + 0.5 * i) * t + 9 * v[i])
            back += (
                f'<path d="{window}" fill="{light}" fill-opacity="{glow:.2f}"'
                f' transform="translate({depth * pan:.1f} 0)"/>'
            )
    back += _layer("M-60 622H830", 626, "#8a82a0", "#b9b2cc")
    back += _layer("M-60 652H830", 656, "#4a4660", "#6d6885")
    dashes = "".join(f"M{-80 + 130 * i} 700h70v9h-70z" for i in range(8))
    back += f'<path d="{dashes}" fill="#f3e6c0"/>'
    return back, _layer("M-60 746H830", 750, "#2e2a44", "#6d6885")


def underwater(u: Sequence[float], t: float, pan: float) -> tuple[str, str]:
    """Rays of light, kelp, coral, bubbles and a sandy floor."""
    back = _backdrop("#1fb884", u[90], "#5fdbdc", "#1f9dc0", "#0d5f98", "#0a4379")
    for i in range(4):
        x, lean = -40 + 240 * i + 90 * u[i], 90 + 30 * math.sin(0.5 * t + 6.3 * u[4 + i])
        glow = 0.15 + 0.05 * math.sin(0.9 * t + 9 * u[i])
        back += (
            f'<path d="M{x:.0f} -10h{50 + 40 * u[i]:.0f}l{-lean + 90:.0f} 690h-190Z" fill="#e8fff4"'
            f' fill-opacity="{glow:.3f}"/>'
        )
    rocks = _hills(560, 70, u[8:11], 1.3)
    back += _layer(rocks, 632, "#12679a", "#2d88b4", 0.9 * pan)
    back += _layer(_hills(625, 40, u[11:14], 1.5), 667, "#0e5080", "#2c7ba5", 0.5 * pan)
    for i in range(6):
        x = 30 + (i % 3) * 62 + (0 if i < 3 else 560) + 24 * u[14 + i] + 0.3 * pan
        height, bend = 240 + 190 * u[20 + i], 26 * math.sin(1.1 * t + 6.3 * u[26 + i])
        back += (
            f'<path d="M{x - 14:.0f} 680C{x - 44 + bend:.0f} {680 - height * 0.4:.0f} {x + 26 - bend:.0f}'
            f" {680 - height * 0.7:.0f} {x + 1.4 * bend:.0f} {680 - height:.0f}"
            f"C{x + 60 - bend:.0f} {680 - height * 0.6:.0f} {x - 6 + bend:.0f} {680 - height * 0.4:.0f}"
            f' {x + 14:.0f} 680Z" fill="{("#1c8f72", "#2fae7c", "#147360")[i % 3]}"/>'
        )
    back += _layer(_hills(645, 16, u[32:35], 1.1), 663, "#e3c98c", "#f8e8bd")
    for i, colour in enumerate(("#f0827d", "#e7a0c4", "#f3b25f")):
        x = 90 + 250 * i + 90 * u[35 + i]
        back += (
            f'<path d="M{x:.0f} 700c-4-30-34-24-36-58M{x:.0f} 700c0-40 4-50 0-84M{x:.0f} 700c6-34 34-26 34-62"'
            f' fill="none" stroke="{colour}" stroke-width="15" stroke-linecap="round"/>'
        )
    bubbles = ""
    for i in range(12):
        y = 800 - (840 * u[41 + i] + (40 + 30 * u[i]) * t) % 840
        x = 768 * u[53 + i] + 10 * math.sin(1.7 * t + 9 * u[i])
        radius = 6 + 10 * u[65 + i]
        bubbles += (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="#d8fbff" fill-opacity=".4"/>'
            f'<circle cx="{x - radius * 0.3:.1f}" cy="{y - radius * 0.3:.1f}" r="{radius * 0.35:.1f}"'
            ' fill="#fff" fill-opacity=".8"/>'
        )
    front = _layer(_hills(748, 14, u[38:41]), 764, "#c9a868", "#efd9a3", -0.8 * pan)
    return back + bubbles, front


SETTINGS = {
    "sky": sky,
    "meadow": meadow,
    "sea": sea,
    "night": night,
    "desert": desert,
    "snow": snow,
    "city": city,
    "underwater": underwater,
}


# Objects face right, centre (0, 0), about 100 wide. Each takes its paints (lit, plain, shade; FILL
# is a gradient of the three), and `beat`, the position of its moving part in radians, and returns
# its outline, which becomes rim and shadow, and what is painted on it.
FILL = "url(#paint)"
Drawing = tuple[str, str]


def ball(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A beach ball. beat: how far it has rolled."""
    stripes = (
        f'<g transform="rotate({math.degrees(beat):.1f})" fill="{shade}" fill-opacity=".8">'
        '<path d="M0-46C-24-30-24 30 0 46A46 46 0 0 1-33 32C-44 10-44-10-33-32A46 46 0 0 1 0-46Z"/>'
        '<path d="M0-46C20-30 20 30 0 46A46 46 0 0 0 21 41C38 14 38-14 21-41A46 46 0 0 0 0-46Z"'
        f' fill="{lit}"/><circle cy="-37" r="8" fill="#fff"/></g>'
    )
    shine = '<ellipse cx="-15" cy="-21" rx="14" ry="9" fill="#fff" fill-opacity=".5" transform="rotate(-35 -15 -21)"/>'
    return '<circle r="46"/>', f'<circle r="46" fill="{FILL}"/>{stripes}{shine}'


def boat(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A sailing boat. beat: unused, the whole boat moves."""
    hull, main, jib = (
        "M-47 16H47C42 34 32 40 24 40H-26C-36 40-44 30-47 16Z",
        "M-2-52C26-34 40-12 42 10H-2Z",
        "M-8-38V10H-42C-28-2-14-18-8-38Z",
    )
    outline = f'<path d="{hull}{main}{jib}M-8-54h6v72h-6z"/>'
    return outline, (
        f'<path d="M-8-54h6v72h-6z" fill="#7a5638"/><path d="{hull}" fill="{shade}"/>'
        f'<path d="M-47 16H47L45 23H-45Z" fill="{plain}"/><path d="{main}" fill="{FILL}"/>'
        f'<path d="{jib}" fill="{lit}"/><path d="M-2-10H34l4 8H-2Z" fill="#fff" fill-opacity=".45"/>'
    )


def bird(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A bird from the side. beat: wings are highest at 0, lowest at pi."""
    # Quick through the middle, where the wings are hardly seen.
    lift = 0.12 + 0.93 * math.cos(beat) / math.sqrt(math.cos(beat) ** 2 + 0.12)
    wing = "M16-2C10-26-8-46-34-50C-32-28-26-8-12 6Z"
    near = f'<path d="{wing}" transform="scale(1 {lift:.3f})"/>'
    far = f'<path d="{wing}" transform="translate(9 -3) scale(.9 {0.9 * lift:.3f})"/>'
    body = "M-50 4C-36-2-22-10-6-12C8-14 14-24 26-24C36-24 42-16 42-8C42 10 20 20 2 20C-14 20-28 14-50 18L-42 10Z"
    return f'{far}<path d="{body}M38-14 52-8 39-4Z"/>{near}', (
        f'<g fill="{shade}">{far}</g><path d="M38-14 52-8 39-4Z" fill="#e8a13a"/>'
        f'<path d="{body}" fill="{FILL}"/><path d="M2 20C20 20 42 10 42-6C34 8 14 12-10 12Z" fill="{lit}"'
        f' fill-opacity=".6"/><g fill="{shade}" transform="translate(1.5 2.5)" fill-opacity=".6">{near}</g>'
        f'<g fill="{lit}">{near}</g><circle cx="29" cy="-12" r="4.6" fill="#fff"/>'
        '<circle cx="30" cy="-12" r="2.6" fill="#23232e"/>'
    )


def _wheel(x: float, y: float, radius: float, beat: float, hub: str) -> str:
    return (
        f'<g transform="translate({x} {y}) rotate({math.degrees(beat):.1f})"><circle r="{radius}"'
        f' fill="#2b2b36"/><circle r="{radius * 0.62:.1f}" fill="#d9dbe3"/><path d="M{-radius * 0.58:.1f}'
        f"-1.6h{radius * 1.16:.1f}v3.2h-{radius * 1.16:.1f}zM-1.6-{radius * 0.58:.1f}v{radius * 1.16:.1f}h3.2"
        f'v-{radius * 1.16:.1f}z" fill="#555763"/><circle r="{radius * 0.24:.1f}" fill="{hub}"/></g>'
    )


def car(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A small car. beat: how far its wheels have turned."""
    body = "M-49 20V6C-49-4-40-8-30-9C-24-26-14-32 0-32C16-32 24-24 31-9C44-7 49-2 49 8V20Z"
    wheels = '<circle cx="-26" cy="20" r="13"/><circle cx="27" cy="20" r="13"/>'
    return f'<path d="{body}"/>{wheels}', (
        f'<path d="{body}" fill="{FILL}"/><path d="M-49 11H49V20H-49Z" fill="{shade}"/>'
        '<path d="M-22-9C-18-20-12-25-3-25V-9ZM3-25C14-25 18-20 23-9H3Z" fill="#d5ecf7"/>'
        '<path d="M-16-9-8-25H-4L-12-9ZM8-9 12-24 15-22 12-9Z" fill="#fff" fill-opacity=".7"/>'
        f'<path d="M-46 2H-40V8H-48ZM42 0H47L49 7H42Z" fill="#fff3b8"/><path d="M-2-4h9v3h-9z" fill="{shade}"/>'
        + _wheel(-26, 20, 13, beat, plain)
        + _wheel(27, 20, 13, beat, plain)
    )


def balloon(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A hot-air balloon. beat: flicker of the burner."""
    skin = "M0-58C26-58 42-40 42-17C42 6 22 22 12 36H-12C-22 22-42 6-42-17C-42-40-26-58 0-58Z"
    flame = 9 + 2.5 * math.sin(beat)
    return f'<path d="{skin}M-11 34H11V58H-11Z"/>', (
        f'<path d="M-10 34-8 46M10 34 8 46" stroke="#7a5638" stroke-width="2.5"/>'
        f'<path d="{skin}" fill="{FILL}"/><path d="M0-58C-18-46-18 20-4 36H-12C-22 22-42 6-42-17C-42-40-26-58'
        f' 0-58ZM0-58C18-46 18 20 4 36H12C16 28 22 21 28 13C36-20 24-48 0-58Z" fill="{shade}" fill-opacity=".55"/>'
        f'<path d="M-6-52C-30-44-34-14-24 2C-28-20-22-40-6-52Z" fill="#fff" fill-opacity=".5"/>'
        f'<path d="M-39-4C-20 8 20 8 39-4L35 5C18 15-18 15-35 5Z" fill="{lit}"/>'
        f'<path d="M-4 42Q0 {42 - 1.6 * flame:.1f} 4 42Z" fill="#ffc24a"/>'
        '<path d="M-10 43H10L8 58H-8Z" fill="#a8743f"/><path d="M-11 43H11V47H-11Z" fill="#7a5029"/>'
    )


def fish(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A fish from the side. beat: tail is out by sin(beat)."""
    stroke = math.sin(beat)
    tail = f'<path d="M-18 0C-30-6-40-24-50-26C-44-8-44 8-50 26C-40 24-30 6-18 0Z" transform="translate(-18 0) skewY({16 * stroke:.1f}) scale({0.8 + 0.2 * math.cos(beat):.3f} 1) translate(18 0)"/>'
    body = "M-26 0C-12-26 8-32 22-30C38-26 46-12 50 0C46 14 34 28 14 28C-4 28-16 18-26 0Z"
    fins = "M-8-18C-2-34 10-38 22-34L24-26ZM-2 20C2 32 10 36 18 34L18 24Z"
    return f'{tail}<path d="{fins}"/><path d="{body}"/>', (
        f'<g fill="{shade}">{tail}<path d="{fins}"/></g><path d="{body}" fill="{FILL}"/>'
        f'<path d="M-8-19C0-8 0 8-8 18L-2 23C8 10 8-10-1-24ZM8-28C18-10 18 10 8 27L15 28C26 10 26-12 15-30Z"'
        f' fill="{shade}" fill-opacity=".7"/><path d="M-18-8C0-24 24-26 38-16C22-20 2-18-18-8Z" fill="#fff"'
        f' fill-opacity=".4"/><path d="M10 6C2 {8 + 4 * stroke:.1f}-2 {12 + 5 * stroke:.1f}-4 {18 + 5 * stroke:.1f}'
        f'C8 18 14 14 16 8Z" fill="{lit}"/><circle cx="34" cy="-7" r="6" fill="#fff"/>'
        '<circle cx="35.5" cy="-7" r="3.4" fill="#23232e"/>'
    )


def rocket(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A rocket upright. beat: flicker of its flame."""
    hull = "M0-60C18-44 24-20 22 4L17 30H-17L-22 4C-24-20-18-44 0-60Z"
    fins = "M-22 0C-38 10-40 26-38 42L-17 30ZM22 0C38 10 40 26 38 42L17 30Z"
    length = 54 + 6 * math.sin(beat) + 3 * math.sin(2.3 * beat)
    flame = f"M-13 32H13C14 40 6 46 0 {length:.1f}C-6 46-14 40-13 32Z"
    return f'<path d="{hull}{fins}{flame}"/>', (
        f'<path d="{flame}" fill="#ff8a2b"/><path d="M-7 32H7C8 38 3 42 0 {length - 9:.1f}C-3 42-8 38-7 32Z"'
        f' fill="#ffe27a"/><path d="{fins}" fill="{shade}"/><path d="{hull}" fill="{FILL}"/>'
        f'<path d="M0-60C18-44 24-20 22 4L17 30H6C14-4 12-34 0-60Z" fill="{shade}" fill-opacity=".55"/>'
        f'<path d="M0-60C8-53 13-45 17-36H-17C-13-45-8-53 0-60Z" fill="{shade}"/>'
        f'<circle cy="-14" r="11.5" fill="#fff"/><circle cy="-14" r="8.5" fill="#8fd0ee"/>'
        f'<path d="M-6-17A7 7 0 0 1 2-21" stroke="#fff" stroke-width="2.5" fill="none"/>'
        f'<path d="M-18 24H18L17 32H-17Z" fill="#4a4a58"/><path d="M-4 4H4V38L0 44-4 38Z" fill="{lit}"/>'
    )


def butterfly(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A butterfly from above. beat: wings are flat at 0, folded at pi."""
    spread = 0.7 + 0.3 * math.cos(beat)
    upper = "M3-6C10-38 34-46 48-38C52-20 40 2 4 6Z"
    lower = "M4 4C26 2 42 12 38 28C32 44 12 40 3 14Z"
    sides = [f'<g transform="scale({sign * spread:.3f} 1)">' for sign in (-1, 1)]
    wings = "".join(f'{side}<path d="{upper}{lower}"/></g>' for side in sides)
    painted = "".join(
        f'{side}<path d="{lower}" fill="{shade}"/><path d="{upper}" fill="{FILL}"/>'
        f'<path d="M44-34C46-20 36-4 14 2C30-8 40-20 44-34Z" fill="{shade}"/>'
        f'<circle cx="31" cy="-25" r="7" fill="{lit}"/><circle cx="25" cy="22" r="7" fill="{plain}"/>'
        '<circle cx="31" cy="-25" r="3" fill="#fff"/><circle cx="25" cy="22" r="3" fill="#fff"/></g>'
        for side in sides
    )
    feelers = '<path d="M-1-18C-4-32-10-36-15-37M1-18C4-32 10-36 15-37" fill="none" stroke="#33303c" stroke-width="2.4" stroke-linecap="round"/>'
    return wings, f'{painted}{feelers}<ellipse cy="4" rx="4.6" ry="25" fill="#33303c"/>'


def house(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A house with a gable. beat: unused, houses stand still."""
    roof, wall, chimney = "M-48-6 0-50 48-6 40 2H-40Z", "M-38-4H38V44H-38Z", "M18-46H30V-14H18Z"
    return f'<path d="{wall}"/><path d="{chimney}"/><path d="{roof}"/>', (
        f'<path d="{chimney}" fill="{shade}"/><path d="M16-46H32V-40H16Z" fill="{plain}"/>'
        f'<path d="{wall}" fill="{FILL}"/><path d="M-38-4H38V6L0 2-38 6Z" fill-opacity=".18"/>'
        f'<path d="{roof}" fill="{shade}"/><path d="M-48-6 0-50 48-6 44-2 0-41-44-2Z" fill="{plain}"/>'
        '<path d="M-9 14H9V44H-9Z" fill="#6b4a35"/><circle cx="5" cy="30" r="1.8" fill="#ffe27a"/>'
        '<path d="M-31 12h15v15h-15zM16 12h15v15h-15z" fill="#fff"/>'
        '<path d="M-29 14h4.8v11h-4.8zM-22.8 14h4.8v11h-4.8zM18 14h4.8v11h-4.8zM24.2 14h4.8v11h-4.8z" fill="#8fcbe8"/>'
        '<circle cy="-20" r="7.5" fill="#fff"/><circle cy="-20" r="5" fill="#8fcbe8"/>'
    )


def star(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A folded paper star. beat: twinkle, brightest at pi / 2."""
    tips = [
        (r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5))
        for i, r in enumerate((48, 22) * 5)
    ]
    outline = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in tips) + "Z"
    folds = "".join(
        f"M0 0L{tips[i][0]:.1f} {tips[i][1]:.1f}L{tips[i - 1][0]:.1f} {tips[i - 1][1]:.1f}Z"
        for i in range(0, 10, 2)
    )
    glow = 0.22 + 0.22 * math.sin(beat)
    return f'<path d="{outline}"/>', (
        f'<path d="{outline}" fill="{plain}"/><path d="{folds}" fill="{shade}" fill-opacity=".55"/>'
        f'<path d="{outline}" fill="{lit}" fill-opacity="{2 * glow:.2f}" transform="scale(.8)"/>'
        f'<circle r="11" fill="#fff" fill-opacity="{glow:.2f}"/>'
    )


def leaf(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A broad leaf, stem down. beat: unused, the whole leaf moves."""
    blade = "M0-50C14-38 20-34 32-32C30-22 34-14 42-6C34 4 34 12 30 22C18 22 8 26 0 32C-8 26-18 22-30 22C-34 12-34 4-42-6C-34-14-30-22-32-32C-20-34-14-38 0-50Z"
    stalk = "M0-36V34C0 42 4 46 8 50"
    veins = "M0 20 24 12M0 20-24 12M0 0 30-8M0 0-30-8M0-18 22-26M0-18-22-26"
    rim = f'<path d="{stalk}" fill="none" stroke-width="9.5" stroke-linecap="round"/>'
    return f'{rim}<path d="{blade}"/>', (
        f'<path d="{blade}" fill="{FILL}"/><path d="M0-50C14-38 20-34 32-32C30-22 34-14 42-6C34 4 34 12 30 22C18'
        f' 22 8 26 0 32Z" fill="{shade}" fill-opacity=".5"/>'
        f'<path d="{veins}" stroke="{lit}" stroke-width="3" stroke-linecap="round"/>'
        f'<path d="{stalk}" fill="none" stroke="{shade}" stroke-width="4.5" stroke-linecap="round"/>'
    )


def train(lit: str, plain: str, shade: str, beat: float) -> Drawing:
    """A steam engine. beat: how far its wheels have turned; smoke is drawn by `smoke`."""
    body = "M-48-30H-10V-12H36C44-12 46-4 46 4V22H-48Z"
    funnel = "M20-34H38L34-12H24Z"
    plough = "M46 10 52 30H38V10Z"
    wheels = ((-33, 25, 14), (-3, 29, 10), (22, 29, 10))
    rings = "".join(f'<circle cx="{x}" cy="{y}" r="{r}"/>' for x, y, r in wheels)
    rod = f'<path d="M-33 25L22 29" stroke="#8d8f9c" stroke-width="4" transform="translate({5 * math.cos(beat):.1f} {5 * math.sin(beat):.1f})"/>'
    return f'<path d="{body}{funnel}{plough}M-53-38H-5V-29H-53Z"/>{rings}', (
        f'<path d="{plough}" fill="#4a4a58"/><path d="{funnel}" fill="{shade}"/><path d="M18-36H40V-30H18Z"'
        f' fill="{plain}"/><path d="M4-20C4-26 14-26 14-20V-10H4Z" fill="{lit}"/><path d="{body}" fill="{FILL}"/>'
        f'<path d="M-10-8H44V-4H-10ZM-48 12H46V22H-48Z" fill="{shade}"/><path d="M-40-23H-19V-6H-40Z" fill="#fff"/>'
        f'<path d="M-38-21H-21V-8H-38Z" fill="#bfe3f4"/><path d="M-53-38H-5V-29H-53Z" fill="{shade}"/>'
        '<circle cx="42" cy="2" r="5" fill="#fff3b8"/>'
        + "".join(_wheel(x, y, r, beat, plain) for x, y, r in wheels)
        + rod
    )


def smoke(puffs: float) -> str:
    """Three puffs above the funnel of `train`. puffs: how many have left it so far."""
    drawn = ""
    for i in range(3):
        age = (puffs + i / 3) % 1
        x, y, radius = 29 - 22 * age, -40 - 20 * age, 5 + 6 * math.sin(math.pi * (0.15 + 0.7 * age))
        alpha = min(1, 6 * age) * (1 - age) ** 0.5
        drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="#eef0f5" fill-opacity="{alpha:.2f}"/>'
    return drawn


OBJECTS = {
    "ball": ball,
    "boat": boat,
    "bird": bird,
    "car": car,
    "balloon": balloon,
    "fish": fish,
    "rocket": rocket,
    "butterfly": butterfly,
    "house": house,
    "star": star,
    "leaf": leaf,
    "train": train,
}


def thing(name: str, colour: str, beat: float, puffs: float, placed: str, key: str) -> str:
    """An object with its paper rim and soft shadow.

    placed: SVG transform from the object's own frame to the canvas. key: makes ids unique."""
    paints = PAINTS[colour]
    outline, painted = OBJECTS[name](*paints, beat)
    rim = "#4b5064" if colour == "white" else "#fff"
    paint = f"paint{key}"
    shadow = "".join(
        f'<g transform="translate({dx} {dy})" fill-opacity=".11">'
        f'<g transform="{placed} scale({grown})">{outline}</g></g>'
        for dx, dy, grown in ((5, 15, 1.06), (4, 9, 1.04))
    )
    return (
        _gradient(paint, *paints, slant=0.35)
        + shadow
        + f'<g transform="{placed}"><g fill="{rim}" stroke="{rim}" stroke-width="5" stroke-linejoin="round">'
        f"{outline}</g>{painted.replace(FILL, f'url(#{paint})')}{smoke(puffs) if name == 'train' else ''}</g>"
    )
