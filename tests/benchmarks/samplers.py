"""Quality of the shipped cascade by sampler of the decoder and calls of its network.

    .venv/bin/python tests/benchmarks/samplers.py [--num_prompts 24]

Videos of 16 frames of 64 pixels of the prompts of `mav evaluate --protocol cutout`, one candidate
each, the same seeds for all, judged as there. distance: root mean square in grey levels of 255 from
the video that DDIM makes of the same noise in 50 calls, for samplers that add none on the way. What
was measured already is read from --out, so that it goes on.
"""

import argparse
import json
import pathlib

import numpy as np

import mav
from mav import cli, samplers
from mav.evaluate import classifier, cutout_measures, cutout_prompts

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
    cascade, judge = mav.load("cutout"), classifier.load()
    asked = cutout_prompts.prompts(options.num_prompts)
    quiet = lambda *_: None
    make = lambda name, steps: [
        cascade.text_to_video(
            prompt.text, seed, quiet, size=64, frames=16, candidates=1, sampler=name, steps=steps
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
        seen = [
            cutout_measures.recognised(judge(video), prompt)
            for video, prompt in zip(videos, asked, strict=True)
        ]
        gaps = np.asarray(videos, np.float32) - np.asarray(reference, np.float32)
        known[key] = {kind: [one[kind] for one in seen] for kind in cutout_measures.SHARES}
        known[key]["distance"] = float(np.sqrt(np.mean(gaps**2)))
        path.write_text(json.dumps(known))
    print("| sampler | calls | object, % | colour, % | setting, % | distance |")
    print("|---|---|---|---|---|---|")
    for name, steps in sorted(wanted, key=lambda row: (row[1], row[0])):
        found = known[f"{name} {steps} {options.num_prompts}"]
        error = np.std(found["object"], ddof=1) / np.sqrt(len(asked))
        shares = [f"{100 * np.mean(found[kind]):.1f}" for kind in cutout_measures.SHARES[:3]]
        shares[0] += f" ± {100 * error:.1f}"
        distance = "-" if name in NOISY else f"{found['distance']:.1f}"
        print("|", " | ".join([name, str(steps), *shares, distance]), "|")


if __name__ == "__main__":
    main()
