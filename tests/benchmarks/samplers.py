"""Quality of the shipped cascade by sampler of the decoder and number of calls of its network.

    .venv/bin/python tests/benchmarks/samplers.py [--num_prompts 24] > samplers.md

Measures each by the cutout protocol (`mav evaluate`, 16 frames of 64 pixels) on the same prompts
and seeds; hours on two cores. What was measured already is read from --folder, so that it goes on.
"""

import argparse
import pathlib

import mav
from mav import params, samplers
from mav.evaluate import cutout

STEPS = (5, 10, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num_prompts", type=int, default=24)
    parser.add_argument("--folder", default="runs/samplers", help="of the reports")
    options = parser.parse_args()
    cascade = mav.load("cutout")
    rows = []
    for name in samplers.SAMPLERS:
        for steps in STEPS:
            folder = pathlib.Path(options.folder) / f"{name}-{steps}-{options.num_prompts}"
            if not (folder / "report.json").exists():
                cutout.run(
                    cascade,
                    folder,
                    num_prompts=options.num_prompts,
                    size=64,
                    frames=16,
                    clips=0,
                    sampler=name,
                    steps=steps,
                )
            verdict = params.read_json(folder / "report.json")["verdict"]
            rows.append((name, str(steps), *(line["shown"] for line in verdict)))
    head = ("sampler", "calls", *(line["name"] for line in verdict))
    for row in (head, ["---"] * len(head), *rows):
        print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
