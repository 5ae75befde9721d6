"""Does a step of training or sampling fit on a TPU slice that is not here, and how fast is it?

    mav plan --config configs/decoder.py:paper,video --topology v5e:16x16 --mesh data=4,fsdp=64

The real program is compiled ahead of time for the slice, by libtpu alone.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mav import cascade, checkpoint, program, samplers, sharding, stages
from mav import params as params_lib
from mav import recipe as recipe_lib

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip can do (FACTS.md 3.1). Rates are per second; links count both directions."""

    flops: float  # bfloat16
    memory: float  # bytes
    memory_rate: float
    link_rate: float


CHIPS = dict(
    v4=Chip(275e12, 32 * GIB, 1200e9, 300e9),
    v5e=Chip(197e12, 16 * GIB, 819e9, 400e9),
    v5p=Chip(459e12, 95 * GIB, 2765e9, 1200e9),
    v6e=Chip(918e12, 32 * GIB, 1638e9, 800e9),
)
COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Report:
    """A compiled program on a slice. Bytes are per chip, flops and examples of all chips.

    memory: bytes by kind, and what the compiler says it needs in all. fits: whether that is less
    than the chip has. collectives: for each kind how many, and the bytes that they leave on a chip.
    seconds: by resource; the longest is the least that a step can take. cached: whether the report
    is from an earlier compilation of the same program.
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
    compile_seconds: float
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
    Raises ValueError for an impossible topology, mesh or batch.
    """
    key = fingerprint(config, clip_config, topology, sample)
    path = None if cache is None else pathlib.Path(cache) / f"{key}.json"
    if path is not None and path.is_file():
        values = params_lib.read_json(path)
        names = {field.name for field in dataclasses.fields(Report)}
        return Report(**{k: v for k, v in values.items() if k in names} | dict(cached=True))
    chip, devices = describe(topology)
    mesh = sharding.make_mesh(config.mesh, devices)
    with sharding.use(mesh):
        make = sampling_step if sample else training_step
        function, arguments, memory, steps = make(config, clip_config, mesh)
        repeats = 1 if sample else config.microbatches
        report = measure(function, arguments, chip, mesh, repeats)
    report = Report(
        program=f"{config.stage} {'sampling' if sample else 'training'} step",
        topology=topology,
        mesh={axis: length for axis, length in mesh.shape.items() if length > 1},
        chips=mesh.size,
        batch_size=config.data.batch_size,
        memory=memory | report.pop("memory"),
        steps=steps,
        **report,
    )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        params_lib.write_json(path, report.to_json())
    return report


def describe(topology: str) -> tuple[Chip, list[jax.Device]]:
    """Chip and compile-only devices of a slice. Raises ValueError if there is no such slice."""
    name = topology.partition(":")[0]
    if name not in CHIPS or not re.fullmatch(r"\w+:\d+(x\d+){1,2}", topology):
        raise ValueError(
            f"topology={topology!r} is unknown; write a chip ({', '.join(CHIPS)}) and a shape, as "
            "v5e:16x16 or v4:2x2x1."
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # this machine need not be a TPU's host
    try:
        found = topologies.get_topology_desc(topology_name=topology, platform="tpu")
    except Exception as error:  # of several kinds, from libtpu
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"topology={topology!r} is impossible ({reason}); libtpu has to be installed (pip "
            "install libtpu), and the shape has to be one that is sold."
        ) from error
    return CHIPS[name], found.devices


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
    fields = {field.name: field.default for field in dataclasses.fields(cascade.Settings)}
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


def measure(
    function: Callable, arguments: tuple, chip: Chip, mesh: Mesh, repeats: int
) -> dict[str, Any]:
    """Compiles, and reads memory, work and collectives off the compiled program.

    repeats: of the loop that nearly all of it is in, whose bytes the compiler counts once.
    """
    start = time.monotonic()
    traced = function.trace(*arguments)
    flops = program.count_flops(traced.jaxpr)
    limit, fits = float(chip.memory), False
    collectives, moved = {}, 0.0
    try:
        compiled = traced.lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG])", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or found is None:
            raise
        unit = dict(K=2**10, M=2**20, G=2**30)
        total, limit = (float(found[i]) * unit[found[i + 1]] for i in (1, 3))
    else:
        found, fits = compiled.memory_analysis(), True
        total = found.argument_size_in_bytes + found.temp_size_in_bytes
        total += found.output_size_in_bytes - found.alias_size_in_bytes
        collectives = count_collectives(compiled.as_text())
        moved = repeats * compiled.cost_analysis().get("bytes accessed", 0.0)
    # A sum goes around the ring twice, once to be made and once to be told.
    links = sum(
        entry["bytes"] * (2 if kind == "all-reduce" else 1) for kind, entry in collectives.items()
    )
    seconds = dict(
        compute=flops / mesh.size / chip.flops,
        memory=moved / chip.memory_rate,
        links=links / chip.link_rate,
    )
    return dict(
        memory=dict(total=float(total)),
        limit=limit,
        fits=fits,
        flops=float(flops),
        bytes_moved=float(moved),
        collectives=collectives,
        seconds=seconds,
        compile_seconds=time.monotonic() - start,
    )


_BYTES = dict(pred=1, s8=1, u8=1, s16=2, u16=2, bf16=2, f16=2, s32=4, u32=4, f32=4, s64=8, f64=8)


def count_collectives(text: str) -> dict[str, dict[str, float]]:
    """Collectives of a compiled program by kind: how many, and bytes of their results.

    What a loop repeats counts as often as it is run.
    """
    found = {}
    times = _times_run(text)
    for computation, lines in _computations(text).items():
        for line in lines:
            match = re.search(r"= (.*?) (" + "|".join(COLLECTIVES) + r")(-start)?\(", line)
            if match is None:
                continue
            arrays = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            if match[2] == "collective-permute" and match[3]:  # two counters come last
                arrays = arrays[:-2]
            if match[2] in ("all-gather", "collective-permute") and match[3]:  # operands, results
                arrays = arrays[len(arrays) // 2 :]
            size = sum(
                _BYTES.get(kind, 0) * math.prod(int(n) for n in shape.split(",") if n)
                for kind, shape in arrays
            )
            entry = found.setdefault(match[2], dict(count=0, bytes=0.0))
            entry["count"] += times[computation]
            entry["bytes"] += times[computation] * size
    return found


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation of a program by its name."""
    found, lines = {}, []
    for line in text.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head:
            lines = found.setdefault(head[1], [])
        else:
            lines.append(line)
    return found


def _times_run(text: str) -> dict[str, int]:
    """How often each computation is run: loops of known length repeat what they call."""
    computations = _computations(text)
    called = {name: [] for name in computations}
    for caller, lines in computations.items():
        for line in lines:
            length = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            for name in re.findall(r"(?:body|calls|to_apply)=%?([\w.\-]+)", line):
                called.setdefault(name, []).append((caller, int(length[1]) if length else 1))

    @functools.cache
    def times(name: str) -> int:
        return sum(length * times(caller) for caller, length in called[name]) or 1

    return {name: times(name) for name in computations}


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
    how = "from the cache" if report.cached else f"compiled in {report.compile_seconds:.0f} s"
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
