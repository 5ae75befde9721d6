"""Quality of the shipped cascade by sampler of the decoder and calls of its network.

    .venv/bin/python tests/benchmarks/samplers.py [--num_prompts 24]

Videos of 16 frames of 64 pixels of the prompts of `mav evaluate --protocol cutout`, one candidate
each, the same seeds for all, judged as there. cutout-FVD: to as many real videos, whose own to
others is told below. distance: root mean square in grey levels of 255 from the video that DDIM
makes of the same noise in 50 calls, for samplers that add none on the way. What was measured
already is read from --out, so that it goes on.
"""

import argparse
import json
import pathlib

import numpy as np

import mav
from mav import cli, samplers
from mav.evaluate import classifier, cutout, cutout_measures, cutout_prompts, video_classifier

SIZE, FRAMES, FPS = 64, 16, 3
STEPS = (4, 6, 10, 20)
REFERENCE = ("ddim", 50)
NOISY = ("ddpm", "dpm++sde")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num_prompts", type=int, default=24)
    parser.add_argument("--out", default="runs/samplers.json", help="what was measured")
    options = parser.parse_args()
    cli.cache_compilations()
    cli.choose_cpu_convolutions()
    path = pathlib.Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    cascade, judge, watcher = mav.load("cutout"), classifier.load(), video_classifier.load()
    asked = cutout_prompts.prompts(options.num_prompts)
    real = lambda k: [
        watcher(judge(cutout_prompts.real_video(prompt, (0, n, k), FPS, FRAMES, SIZE)))
        for n, prompt in enumerate(asked)
    ]
    real = [real(k) for k in range(cutout_prompts.NUM_REAL)]
    quiet = lambda *_: None
    make = lambda name, steps: [
        cascade.text_to_video(
            prompt.text,
            seed,
            quiet,
            size=SIZE,
            frames=FRAMES,
            candidates=1,
            sampler=name,
            steps=steps,
        )
        for seed, prompt in enumerate(asked)
    ]
    wanted = [REFERENCE, *((name, steps) for name in samplers.SAMPLERS for steps in STEPS)]
    reference = None
    for name, steps in wanted:
        key = f"{name} {steps} {options.num_prompts}"
        if key in known:
            continue
        if reference is None:
            reference = make(*REFERENCE)
        videos = reference if (name, steps) == REFERENCE else make(name, steps)
        looks = [judge(video) for video in videos]
        seen = [
            cutout_measures.recognised(look, prompt)
            for look, prompt in zip(looks, asked, strict=True)
        ]
        found = cutout.distances([watcher(look) for look in looks], *real)["fvd"]
        gaps = np.asarray(videos, np.float32) - np.asarray(reference, np.float32)
        known[key] = {kind: [one[kind] for one in seen] for kind in cutout_measures.SHARES}
        known[key]["distance"] = float(np.sqrt(np.mean(gaps**2)))
        known[key]["fvd"] = found
        path.write_text(json.dumps(known))
    print("| sampler | calls | object, % | colour, % | setting, % | cutout-FVD | distance |")
    print("|---|---|---|---|---|---|---|")
    for name, steps in sorted(wanted, key=lambda row: (row[1], row[0])):
        found = known[f"{name} {steps} {options.num_prompts}"]
        error = np.std(found["object"], ddof=1) / np.sqrt(len(asked))
        shares = [f"{100 * np.mean(found[kind]):.1f}" for kind in cutout_measures.SHARES[:3]]
        shares[0] += f" ± {100 * error:.1f}"
        fvd = "{mean:.1f} ± {error:.1f}".format(**found["fvd"]["generated"])
        distance = "-" if name in NOISY else f"{found['distance']:.1f}"
        print("|", " | ".join([name, str(steps), *shares, fvd, distance]), "|")
    print(
        "cutout-FVD of real videos to others: {mean:.1f} ± {error:.1f}".format(
            **found["fvd"]["real"]
        )
    )


if __name__ == "__main__":
    main()
