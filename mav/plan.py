"""Does a step of training or sampling fit on a TPU slice that is not here, and how fast is it?

    mav plan --config configs/decoder.py:paper,video --topology v5e:16x16 --mesh data=4,fsdp=64

The real program is compiled ahead of time for the slice, by libtpu alone, in a process of its own.
That ends once every operation has its time and place: kernels, which take most of a compilation and
change none of the answers, are not made.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mav import cascade, checkpoint, hlo, program, samplers, sharding, stages
from mav import params as params_lib
from mav import recipe as recipe_lib
from mav.settings import Settings

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip can do (FACTS.md 3.1). Rates are per second; links count both directions.

    options: of its topology.
    """

    flops: float  # bfloat16
    memory: float  # bytes that libtpu 0.0.52 gives to programs, a little less than there are
    memory_rate: float
    link_rate: float
    options: dict[str, str] = dataclasses.field(default_factory=dict)


CHIPS = dict(
    v4=Chip(275e12, 30.75 * GIB, 1200e9, 300e9, dict(chip_config_name="megacore")),
    v5e=Chip(197e12, 15.75 * GIB, 819e9, 400e9),
    v5p=Chip(459e12, 95.73 * GIB, 2765e9, 1200e9),
    v6e=Chip(918e12, 31.24 * GIB, 1638e9, 800e9),
)
POLL = 0.2  # seconds between looks at what the compiler has written


@dataclasses.dataclass(frozen=True)
class Report:
    """A compiled program on a slice. Bytes are per chip, flops and examples of all chips.

    memory: bytes by kind, and what the compiler says it needs in all. fits: whether that is less
    than the chip has. collectives: for each kind how many, and the bytes that they leave on a chip.
    seconds: by resource; the longest is the least that a step can take. plan_seconds: until the
    answers were there. cached: whether the report is from an earlier call for the same program.
    """

    program: str
    topology: str
    mesh: dict[str, int]
    chips: int
    batch_size: int
    memory: dict[str, float]
    limit: float
    fits: bool
    flops: float
    bytes_moved: float
    collectives: dict[str, dict[str, float]]
    seconds: dict[str, float]
    plan_seconds: float
    steps: int
    cached: bool = False

    @property
    def limited_by(self) -> str:
        """The resource that takes longest."""
        return max(self.seconds, key=self.seconds.get)

    @property
    def step_seconds(self) -> float:
        """The least time of a step, if all resources are used at once."""
        return max(self.seconds.values())

    @property
    def chip_hours(self) -> float:
        """Of all steps of the config, or of one sample, at that time."""
        return self.steps * self.step_seconds * self.chips / 3600

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        derived = ("limited_by", "step_seconds", "chip_hours")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


def run(
    config: ConfigDict,
    clip_config: ConfigDict,
    topology: str,
    sample: bool = False,
    cache: str | os.PathLike | None = None,
) -> Report:
    """Compiles the training step of a config, or one step of its sampler, for a slice.

    topology: "v5e:16x16", chip and shape. The mesh is the config's.
    cache: folder of earlier reports; None keeps none.
    Raises ValueError for an impossible topology, mesh or config.
    """
    recipe_lib.check(config)
    key = fingerprint(config, clip_config, topology, sample)
    path = None if cache is None else pathlib.Path(cache) / f"{key}.json"
    if path is not None and path.is_file():
        values = params_lib.read_json(path)
        names = {field.name for field in dataclasses.fields(Report)}
        return Report(**{k: v for k, v in values.items() if k in names} | dict(cached=True))
    report = compiled(config, clip_config, topology, sample)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        params_lib.write_json(path, report.to_json())
    return report


def compiled(config: ConfigDict, clip_config: ConfigDict, topology: str, sample: bool) -> Report:
    """Compiles in another process, and reads memory, work and collectives off the program."""
    start = time.monotonic()
    request = dict(
        config=checkpoint.to_json(config),
        clip_config=checkpoint.to_json(clip_config),
        topology=topology,
        sample=sample,
    )
    with tempfile.TemporaryDirectory(prefix="mav-plan-") as folder:
        folder = pathlib.Path(folder)
        params_lib.write_json(folder / "request.json", request)
        flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        environment = os.environ | dict(
            XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} {flags}",
            JAX_PLATFORMS="cpu",  # of what is computed before: no chip here is taken
            ALLOW_MULTIPLE_LIBTPU_LOAD="1",
        )
        command = [sys.executable, "-m", "mav.plan", str(folder)]
        with (
            open(folder / "log", "wb") as log,
            subprocess.Popen(command, stdout=log, stderr=log, env=environment) as child,
        ):
            try:
                # What it writes next, with the same again, says that all else is written.
                while child.poll() is None and not _dumped(folder, "_after_buffer_assignment"):
                    time.sleep(POLL)
            finally:
                child.kill()
        if (folder / "refused.json").is_file():
            raise ValueError(params_lib.read_json(folder / "refused.json")["reason"])
        if not _dumped(folder, ""):
            said = " ".join((folder / "log").read_text(errors="replace").split())
            raise OSError(f"libtpu could not compile this for {topology} (...{said[-400:]}).")
        traced = params_lib.read_json(folder / "traced.json")
        scheduled = hlo.Program(_dumped(folder, "").read_text())
        usage = _dumped(folder, "-memory-usage-report").read_text()
    chip = CHIPS[topology.partition(":")[0]]
    spaces = re.findall(r"\(color=(\d+)\)\nTotal bytes: (\d+)", usage)
    total = sum(float(size) for color, size in spaces if color == "0")
    collectives, moved = scheduled.collectives(), scheduled.bytes_moved()
    # A sum goes around the ring twice, once to be made and once to be told.
    links = sum(
        entry["bytes"] * (2 if kind == "all-reduce" else 1) for kind, entry in collectives.items()
    )
    return Report(
        program=f"{config.stage} {'sampling' if sample else 'training'} step",
        topology=topology,
        batch_size=config.data.batch_size,
        memory=traced.pop("memory") | dict(total=total),
        limit=chip.memory,
        fits=total <= chip.memory,
        bytes_moved=moved,
        collectives=collectives,
        seconds=dict(
            compute=traced["flops"] / traced["chips"] / chip.flops,
            memory=moved / chip.memory_rate,
            links=links / chip.link_rate,
        ),
        plan_seconds=time.monotonic() - start,
        **traced,
    )


def _dumped(folder: pathlib.Path, kind: str) -> pathlib.Path | None:
    """A file that the compiler has written of its one program when that was optimised."""
    return next(folder.glob(f"*.after_optimizations{kind}.txt"), None)


def compile_here(folder: pathlib.Path) -> None:
    """What the other process does: compiles what `request.json` asks for.

    Writes `traced.json`, what is known before; or `refused.json`, why it is impossible.
    """
    request = params_lib.read_json(folder / "request.json")
    config, clip_config = ConfigDict(request["config"]), ConfigDict(request["clip_config"])
    try:
        mesh = sharding.make_mesh(config.mesh, describe(request["topology"]))
        with sharding.use(mesh):
            make = sampling_step if request["sample"] else training_step
            function, arguments, memory, steps = make(config, clip_config, mesh)
            traced = function.trace(*arguments)
            about = dict(
                mesh={axis: length for axis, length in mesh.shape.items() if length > 1},
                chips=mesh.size,
                memory=memory,
                flops=float(program.count_flops(traced.jaxpr)),
                steps=steps,
            )
            params_lib.write_json(folder / "traced.json", about)
            traced.lower(lowering_platforms=("tpu",)).compile()
    except ValueError as error:
        params_lib.write_json(folder / "refused.json", dict(reason=str(error)))


def describe(topology: str) -> list[jax.Device]:
    """The compile-only devices of a slice. Raises ValueError if there is no such slice."""
    name = topology.partition(":")[0]
    if name not in CHIPS or not re.fullmatch(r"\w+:\d+(x\d+){1,2}", topology):
        raise ValueError(
            f"topology={topology!r} is unknown; write a chip ({', '.join(CHIPS)}) and a shape, as "
            "v5e:16x16 or v4:2x2x1."
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # this machine need not be a TPU's host
    try:
        found = topologies.get_topology_desc(
            topology_name=topology, platform="tpu", **CHIPS[name].options
        )
    except Exception as error:  # of several kinds, from libtpu
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"topology={topology!r} is impossible ({reason}); libtpu has to be installed (pip "
            "install libtpu), and the shape has to be one that is sold."
        ) from error
    return found.devices


def training_step(config: ConfigDict, clip_config: ConfigDict, mesh: Mesh):
    """The step with the shapes of its arguments, bytes of its state per chip, and their number."""
    recipe, state, batch, parents = recipe_lib.shapes(config, clip_config, mesh)
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(recipe.step, donate_argnums=0, out_shardings=(layout, None))
    memory = dict(
        parameters=resident(state.params),
        average=resident(state.ema_params),
        optimiser=resident(state.opt_state),
        frozen=resident(parents),
        batch=resident(batch),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    return step, (state, batch, parents, key), memory, config.num_steps


def sampling_step(config: ConfigDict, clip_config: ConfigDict, mesh: Mesh):
    """As `training_step`, of one guided network call as a cascade makes it, for a batch of videos.

    Their number is that of a whole video of 76 frames in `eval.num_steps` steps.
    """
    recipe, state, batch, parents = recipe_lib.shapes(config, clip_config, mesh)
    stage = stages.build(config, config.dtype)  # without `scan`, as a cascade has it
    if stage.process is None:
        raise ValueError(f"{stage.name} is not sampled; leave --sample out.")

    def example(params, batch, parents):
        together = recipe.together(parents)
        key = jax.random.key(0)
        return stages.EXAMPLES[stage.name](stage, recipe.loss, params, batch, key, together)

    x, cond = jax.eval_shape(example, state.params, batch, parents)
    frames, pieces = calls_per_video(stage)

    def grow(leaf):  # learned from clips and crops, sampled whole
        if leaf.ndim != 5:
            return leaf
        whole = (leaf.shape[0], frames, stage.size, stage.size, leaf.shape[-1])
        return jax.ShapeDtypeStruct(whole, leaf.dtype)

    x, cond = jax.tree.map(grow, (x, cond))
    x, cond = sharding.placed_examples((x, cond), mesh)
    null = {name: cond[name] for name in cond if name.startswith(("drop_", "text"))}
    steps = config.eval.num_steps
    row = {k: v[:1] for k, v in samplers.table(stage.process, "ddim", steps).items()}
    start = samplers.State(x, x, x, jax.eval_shape(lambda: jax.random.key(0)))
    memory = dict(parameters=resident(state.params), batch=resident((x, cond)))
    arguments = (stage, 2.0, 0.0, "mask" in cond, start, row, state.params, cond, null)
    return cascade.advance, arguments, memory, steps * pieces


def calls_per_video(stage: stages.Stage) -> tuple[int, int]:
    """Frames that a cascade gives to a stage at once, and how often for a video of 76."""
    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    if stage.name == "sr_768":
        return fields["chunk"], math.ceil(fields["frames"] / fields["chunk"])
    if stage.name == "interpolation":
        per_window = (stage.frames - 1) // fields["frame_skip"]
        return stage.frames, (stage.frames - 1) // per_window
    if stage.name.startswith("sr_256") and stage.frames > 1:
        return fields["frames"], 1
    return stage.frames, 1


def resident(tree: Any) -> float:
    """Bytes of a tree of placed shapes on one chip."""
    each = lambda leaf: leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    return float(sum(each(leaf) for leaf in jax.tree.leaves(tree)))


def fingerprint(config: ConfigDict, clip_config: ConfigDict, topology: str, sample: bool) -> str:
    """Of all that a compiled program depends on: configs, slice, mav's and JAX's code."""
    code = pathlib.Path(__file__).parent
    sources = [path.read_bytes() for path in sorted(code.glob("*.py"))]
    values = [checkpoint.to_json(config), checkpoint.to_json(clip_config), topology, sample]
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    versions = [installed.get(name) for name in ("jax", "flax", "libtpu")]
    described = json.dumps([*values, *versions], sort_keys=True).encode()
    return hashlib.sha256(b"".join([described, *sources])).hexdigest()[:32]


def show(report: Report) -> str:
    """The report for people."""
    size = lambda value: f"{value / GIB:8.2f} GiB"
    mesh = ", ".join(f"{axis}={length}" for axis, length in report.mesh.items()) or "one chip"
    lines = [f"{report.program} on {report.topology} ({report.chips} chips), mesh {mesh}"]
    lines.append(f"batch of {report.batch_size}, {report.batch_size / report.chips:g} per chip")
    known = {name: value for name, value in report.memory.items() if name != "total"}
    rest = report.memory["total"] - sum(known.values())
    for name, value in {**known, "activations": max(rest, 0.0)}.items():
        lines.append(f"  {name:12}{size(value)}")
    verdict = "FITS" if report.fits else "DOES NOT FIT"
    lines.append(f"  {'total':12}{size(report.memory['total'])} of {size(report.limit)}: {verdict}")
    if not report.fits:
        lines.append(f"  {advice(report, rest)}")
        return "\n".join(lines)
    lines.append(
        f"work: {report.flops / 1e12:.2f} TFLOP, {size(report.bytes_moved)} moved per chip"
    )
    for kind, entry in report.collectives.items():
        lines.append(f"  {entry['count']:4} {kind}: {size(entry['bytes'])} per chip")
    each = ", ".join(f"{name} {seconds:.4f} s" for name, seconds in report.seconds.items())
    lines.append(
        f"roofline: at least {report.step_seconds:.4f} s a step, limited by "
        f"{report.limited_by} ({each})"
    )
    lines.append(f"{report.steps} steps: at least {report.chip_hours:,.1f} chip-hours")
    how = "from the cache" if report.cached else f"planned in {report.plan_seconds:.0f} s"
    return "\n".join([*lines, how])


def advice(report: Report, activations: float) -> str:
    """What to change so that it fits."""
    state = report.memory["total"] - activations
    if state > 0.6 * report.memory["total"] and "fsdp" not in report.mesh:
        return "most of it is the state: divide that by --mesh fsdp=N."
    if state > 0.6 * report.memory["total"]:
        return "most of it is the state: raise fsdp in --mesh, or take more chips."
    if report.batch_size > report.chips:
        return (
            "most of it is activations: set remat=blocks, raise microbatches, or lower the batch."
        )
    return "most of it is activations of single examples: set remat=blocks, or raise context."


if __name__ == "__main__":
    compile_here(pathlib.Path(sys.argv[1]))
