"""What edits by the shipped cascade do to real clips of the cutout world that it has never seen.

    .venv/bin/python tests/benchmarks/edits.py [--clips 8] [--seconds 30] [--sheets FOLDER]

seam: how much an animated image changes from the given frame to the next, and later on from one to
the next (mean grey levels of 255), where the cascade stops at 64 and at 256 pixels. tween: the same
at both ends. drift: a clip of a second is extended; in what share of its frames, every five
seconds, the protocol's judge still sees the object, its colour and the setting. What `smooth` and
`upscale` do is measured by `mav evaluate`.
"""

import argparse
import pathlib

import numpy as np

import mav
from mav import cli, media
from mav.evaluate import classifier, cutout_measures, cutout_prompts

QUIET = lambda *_: None


def steps(video: np.ndarray) -> np.ndarray:
    """Mean change from each frame to the next."""
    return np.abs(np.diff(video.astype(float), axis=0)).mean((1, 2, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument(
        "--seconds", type=float, default=30, help="by which a clip is extended (30)"
    )
    parser.add_argument("--sheets", help="folder for contact sheets")
    options = parser.parse_args()
    cli.cache_compilations()
    cli.choose_cpu_convolutions()
    cascade, judge = mav.load("cutout"), classifier.load()
    prompts = cutout_prompts.prompts(options.clips)
    clips = [cutout_prompts.real_video(p, i, 15, 76, 64) for i, p in enumerate(prompts)]
    sheets = {}

    for size in (64, 256):
        run = dict(size=size, frames=76, progress=QUIET)
        found = [cascade.animate(clip[0], seed=i, **run) for i, clip in enumerate(clips)]
        sheets[f"animate-{size}"] = found
        seams = np.array([(steps(v)[0], steps(v)[1:].mean()) for v in found])
        (first, later), more = seams.mean(0), seams[:, 0] - seams[:, 1]
        error = more.std(ddof=1) / np.sqrt(len(more))
        print(
            f"seam at {size} pixels: {first:.2f} to the given frame, {later:.2f} later on, ", end=""
        )
        print(f"{more.mean():.2f} ± {error:.2f} more")
        found = [cascade.tween(clip[0], clip[-1], seed=i, **run) for i, clip in enumerate(clips)]
        sheets[f"tween-{size}"] = found
        ends = np.array([(steps(v)[0], steps(v)[-1], np.median(steps(v))) for v in found]).mean(0)
        print(f"tween at {size} pixels: {ends[0]:.2f} and {ends[1]:.2f} at the ends, {ends[2]:.2f}")

    run = dict(size=64, progress=QUIET)
    extend = lambda i, clip: cascade.extend(clip[:16], 15, options.seconds, seed=i, **run)
    found = [extend(i, clip) for i, clip in enumerate(clips)]
    sheets["extend"] = found
    for second in range(0, int(options.seconds) + 1, 5):
        frames = slice(15 * second, 15 * (second + 1))
        seen = [
            cutout_measures.recognised(judge(video[frames]), prompt)
            for video, prompt in zip(found, prompts, strict=True)
        ]
        shares = [np.mean([one[name] for one in seen]) for name in ("object", "colour", "setting")]
        shares = ", ".join(f"{100 * share:.0f} %" for share in shares)
        print(f"drift, from second {second}: object, colour, setting in {shares} of frames")
    if options.sheets:
        folder = pathlib.Path(options.sheets)
        folder.mkdir(parents=True, exist_ok=True)
        for name, videos in sheets.items():
            sheet = media.contact_sheet(videos, columns=8, frames=8, tile=96)
            media.write_image(folder / f"{name}.png", sheet)


if __name__ == "__main__":
    main()
