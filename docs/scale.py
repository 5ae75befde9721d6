"""Writes docs/scale.md: which mesh fits on which TPU slice, and what the paper's recipe would cost.

    python docs/scale.py        # hours on two cores; docs/scale.json keeps what is compiled

Needs libtpu. Every number comes from `mav plan` or from a config.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from mav import params as params_lib
from mav import plan, stages
from mav.commands import config_files

HERE = pathlib.Path(__file__).parent
STAGES = (  # config and phase
    ("clip", "image"),
    ("prior", "image"),
    ("decoder", "image"),
    ("decoder", "video"),
    ("interpolation", "video"),
    ("sr_256", "image"),
    ("sr_256", "video"),
    ("sr_768", "image"),
)
SLICES = ("v4:4x8x8", "v5e:16x16", "v5p:4x8x8", "v6e:16x16")  # 256 chips each
MESHES = (dict(fsdp=16), dict(fsdp=64), dict(fsdp=64, context=2))  # the first that fits is told
GROWTH = (  # of 4, 16, 64, 256 and 1,024 chips, with two examples or half of one on each at once
    ("v5p:2x2x1", dict(microbatches=64)),
    ("v5p:2x2x4", dict(data=4, microbatches=16)),  # else the compiler passes weights around
    ("v5p:4x4x4", dict(microbatches=4)),
    ("v5p:4x8x8", dict()),
    ("v5p:8x8x16", dict(context=2)),
)
GROWN = ("paper", "decoder", "video")
MOMENTS = 4 * 4  # bytes per parameter of a checkpoint: itself, its average, two moments
HOST_RATE = 1e9  # bytes per second that a host writes to a bucket, assumed
CHIPS_PER_HOST = dict(v4=4, v5e=8, v5p=4, v6e=8)


class Plans:
    """Reports by what they are of; those in scale.json are not made again."""

    def __init__(self):
        self.path = HERE / "scale.json"
        self.known = json.loads(self.path.read_text()) if self.path.exists() else {}

    def __call__(self, size: str, stage: str, phase: str, topology: str, **mesh: Any) -> dict:
        """The report of a training step, as plain values."""
        name = f"{stage}:{size},{phase} {topology} {json.dumps(mesh)}"
        if name not in self.known:
            print(name, flush=True)
            config, clip_config = read(size, stage, phase), read(size, "clip", "image")
            config.microbatches = mesh.pop("microbatches", 1)
            config.mesh.update(mesh)
            self.known[name] = plan.run(config, clip_config, topology).to_json()
            self.path.write_text(json.dumps(self.known, indent=1) + "\n")
        return self.known[name]

    def fitting(self, *what: str) -> tuple[dict, str]:
        """The first of MESHES that fits, or the last; and how it is written."""
        for mesh in MESHES:
            report = self(*what, **mesh)
            if report["fits"]:
                break
        return report, ", ".join(f"{name}={value}" for name, value in mesh.items())


def read(size: str, stage: str, phase: str):
    """A config."""
    return config_files.read(f"{HERE.parent}/configs/{stage}.py:{size},{phase}", [])


def fits(plans: Plans, size: str) -> Iterator[str]:
    """Rows: which mesh fits where."""
    yield "| stage | slice | mesh, rest to data | HBM of a chip | step, at least | limited by | "
    yield "chip-hours | planned in |\n|---|---|---|---|---|---|---|---|\n"
    for stage, phase in STAGES:
        for topology in SLICES:
            found, mesh = plans.fitting(size, stage, phase, topology)
            used = (
                f"{found['memory']['total'] / plan.GIB:.1f} of {found['limit'] / plan.GIB:.2f} GiB"
            )
            what = f"| {stage}, {phase} | {topology} | {mesh} | {used} "
            if found["fits"]:
                yield (
                    f"{what}| {found['step_seconds']:.2f} s | {found['limited_by']} "
                    f"| {found['chip_hours']:,.0f} | {found['plan_seconds'] / 60:.1f} min |\n"
                )
            else:
                yield f"{what}| does not fit | | | {found['plan_seconds'] / 60:.1f} min |\n"


def recipe(plans: Plans) -> Iterator[str]:
    """Rows: data, checkpoints and chip-hours of the paper's stages."""
    yield "| stage | steps | batch | examples | pixels read | parameters | checkpoint | "
    yield "written in | v5p chip-hours |\n|---|---|---|---|---|---|---|---|---|\n"
    total = 0.0
    for stage, phase in STAGES:
        config = read("paper", stage, phase)
        built = stages.build(config)
        number = params_lib.count(stages.param_shapes(built))
        examples = config.num_steps * config.data.batch_size
        pixels = examples * built.frames * config.data.crop**2 * 3
        report, _ = plans.fitting("paper", stage, phase, "v5p:4x8x8")
        total += report["chip_hours"]
        written = number * MOMENTS
        hosts = report["chips"] / CHIPS_PER_HOST["v5p"]
        yield (
            f"| {stage}, {phase} | {config.num_steps:,} | {config.data.batch_size} "
            f"| {examples / 1e6:,.0f} M | {pixels / 1e12:,.1f} TB | {number / 1e9:.2f} B "
            f"| {written / 1e9:.1f} GB | {written / hosts / HOST_RATE:.1f} s "
            f"| {report['chip_hours']:,.0f} |\n"
        )
    yield f"| all | | | | | | | | {total:,.0f} |\n"


def growth(plans: Plans) -> Iterator[str]:
    """Rows: the same step on more and more chips."""
    yield "| slice | chips | beside fsdp | HBM of a chip | step, at least | limited by | "
    yield "chip-seconds of a step |\n|---|---|---|---|---|---|---|\n"
    for topology, how in GROWTH:
        found = plans(*GROWN, topology, fsdp=-1, **dict(data=1) | how)
        seconds = found["step_seconds"]
        beside = ", ".join(f"{name}={value}" for name, value in how.items())
        used = found["memory"]["total"] / plan.GIB
        yield (
            f"| {topology} | {found['chips']} | {beside} | {used:.1f} GiB | {seconds:.2f} s "
            f"| {found['limited_by']} | {seconds * found['chips']:,.0f} |\n"
        )


def main() -> None:
    """Writes the page."""
    plans = Plans()
    size, stage, phase = GROWN
    parts = dict(
        paper="".join(fits(plans, "paper")),
        karlo="".join(fits(plans, "karlo")),
        recipe="".join(recipe(plans)),
        growth="".join(growth(plans)),
        grown=f"{stage}:{size},{phase}",
        rung=plans(*GROWN, "v5p:2x2x4", fsdp=-1, data=1, microbatches=16)["step_seconds"],
    )
    (HERE / "scale.md").write_text(PAGE.format(**parts))


PAGE = """# What fits where, and what it would cost

Made by `python docs/scale.py` from `mav plan`: the real training steps, compiled for slices that \
are not here, with the configs' batches and blocks computed again (`remat`). Times are the \
roofline's, the least that a step can take if compute, memory and links all run at their peaks at \
once; expect two to three times as much. Nobody has run these yet.

## The paper's stages
{paper}
## Karlo's stages
{karlo}
## The paper's recipe
Steps and batches are those of the configs, many of which the paper leaves open. Checkpoints hold \
parameters, averages and moments in float32; the time is that of all hosts of the slice writing \
their part at 1 GB/s each.

{recipe}
## From one host to 1,024 chips
`{grown}` with the config's batch of 512, all chips on `fsdp` that are not elsewhere. With all 16 \
on `fsdp`, the compiler passes weights from chip to chip in place of gathering them, which moves \
three times as many bytes ({rung:.1f} s).

{growth}"""


if __name__ == "__main__":
    main()
