"""How fast a stage computes here: `mav bench --config configs/decoder.py:cutout,video`."""

import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from ml_collections import ConfigDict
from tqdm.auto import tqdm

from mav import sharding, stages, train

REPEATS = 5


class Row(NamedTuple):
    """What one program does and needs."""

    name: str
    seconds: float
    flops: float  # on all devices
    bytes: int  # on each device


class Program:
    """A jitted function, compiled for shapes alone.

    Raises ValueError if it needs more memory than a device has, before any is taken.
    """

    def __init__(self, function: Callable, *shapes: Any):
        self.flops = count_flops(function, *shapes)
        self.run = function.lower(*shapes).compile()
        memory = self.run.memory_analysis()
        self.bytes = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        self.bytes += memory.output_size_in_bytes - memory.alias_size_in_bytes
        if self.bytes > device_memory():
            raise ValueError(
                f"this needs {self.bytes / 2**30:.1f} GiB on each device, which has "
                f"{device_memory() / 2**30:.1f} GiB free; lower data.batch_size."
            )


def run(config: ConfigDict, clip_config: ConfigDict) -> None:
    """Times a stage's forward pass and training step on random data, and prints a report.

    clip_config: of the CLIP that tells the stage what to draw; it is random too.
    Raises ValueError if a program does not fit into memory.
    """
    mesh = sharding.make_mesh(config.mesh)
    peak = matrix_peak(config.dtype) * mesh.size
    rows, error = measure(config, clip_config)
    frames = config.frames if "frames" in config else 1
    print(
        f"{config.stage}: {config.data.batch_size} examples of {frames} x {config.data.crop} x "
        f"{config.data.crop}, {config.dtype}, {mesh.size} x {jax.devices()[0].device_kind} with a "
        f"matrix peak of {peak / 1e9:.0f} GFLOP/s"
    )
    print(f"{'':13}       s  examples/s      GFLOP  GFLOP/s  of peak      GiB")
    for row in rows:
        rate = row.flops / row.seconds
        print(
            f"{row.name:13} {row.seconds:7.4f} {config.data.batch_size / row.seconds:11.2f} "
            f"{row.flops / 1e9:10.1f} {rate / 1e9:8.0f} {rate / peak:8.0%} {row.bytes / 2**30:8.2f}"
        )
    print(f"the output differs from that in float32 by {error:.2%} (root mean square)")


def measure(config: ConfigDict, clip_config: ConfigDict) -> tuple[list[Row], float]:
    """Rows for the forward pass and the training step, and the relative error of the dtype."""
    mesh = sharding.make_mesh(config.mesh)
    stage = stages.build(config, config.dtype)
    clip_stage = stages.build(clip_config, config.dtype)
    frozen = {"clip": clip_stage} if train.needs_clip(stage) else {}
    options, ema_decay = config.loss.to_dict(), config.optimizer.ema_decay
    optimizer = train.make_optimizer(config.optimizer, config.num_steps)
    key = jax.random.key(config.seed)

    def make_state(key):
        params, step = noise(stages.param_shapes(stage), key), jnp.zeros((), jnp.int32)
        return train.TrainState(step, params, params, optimizer.init(params))

    def make_parents(key):
        return {name: noise(stages.param_shapes(parent), key) for name, parent in frozen.items()}

    def make_inputs(params, batch, parents, key):
        together = {name: (frozen[name], params) for name, params in parents.items()}
        return network_inputs(stage, options, params, batch, key, together)

    def forward(params, inputs):
        return stage.network.apply({"params": params}, **inputs)

    def exact(params, inputs):
        return stages.build(config).network.apply({"params": params}, **inputs)

    def step(state, batch, parents):
        return train.train_step(
            stage, options, optimizer, ema_decay, state, batch, parents, frozen, key
        )

    layout = sharding.shard_like_parameters(jax.eval_shape(make_state, key), mesh)
    make_state = jax.jit(make_state, out_shardings=layout)
    make_parents, make_inputs = jax.jit(make_parents), jax.jit(make_inputs)
    step = jax.jit(step, donate_argnums=0, out_shardings=(layout, None))
    batch = sharding.shard_batch(random_batch(config, stage, clip_stage), mesh)

    with tqdm(total=5, leave=False) as bar:

        def begin(what: str) -> None:
            bar.set_description(what)
            bar.update()

        begin("compiling the forward pass")
        state, parents = jax.eval_shape(make_state, key), jax.eval_shape(make_parents, key)
        inputs = jax.eval_shape(make_inputs, state.params, batch, parents, key)
        forward = Program(jax.jit(forward), state.params, inputs)
        begin("compiling the training step")
        step = Program(step, state, batch, parents)

        begin("timing the forward pass")
        state, parents = make_state(key), make_parents(key)
        inputs = make_inputs(state.params, batch, parents, key)
        forward_seconds = seconds(lambda: forward.run(state.params, inputs))
        begin("comparing with float32")
        wanted = jax.jit(exact)(state.params, inputs)
        error = jnp.mean((forward.run(state.params, inputs) - wanted) ** 2) / jnp.mean(wanted**2)

        begin("timing the training step")

        def one_step():
            nonlocal state
            state, metrics = step.run(state, batch, parents)  # the old state is given up
            return metrics

        step_seconds = seconds(one_step)
    rows = [
        Row("forward", forward_seconds, forward.flops, forward.bytes),
        Row("training step", step_seconds, step.flops, step.bytes),
    ]
    return rows, float(jnp.sqrt(error))


def noise(shapes: Any, key: Key[Array, ""]) -> stages.Params:
    """Random parameters for a tree of shapes, under which all of a network works.

    None is zero, unlike at a training's start. All are cut from the same numbers: to draw each
    alone takes minutes to compile.
    """
    numbers = jax.random.normal(key, (max(leaf.size for leaf in jax.tree.leaves(shapes)),))

    def cut(path, leaf):
        values = numbers[: leaf.size].reshape(leaf.shape)
        if leaf.ndim > 1:
            return values / np.sqrt(leaf.size / leaf.shape[-1])
        return values * 0.1 + (sharding.path_name(path).endswith(("scale", "std")))

    return jax.tree_util.tree_map_with_path(cut, shapes)


def random_batch(
    config: ConfigDict, stage: stages.Stage, clip_stage: stages.Stage
) -> dict[str, np.ndarray]:
    """A batch as the config's data gives it, of noise."""
    rng = np.random.default_rng(config.seed)
    b, side, text = config.data.batch_size, config.data.crop, clip_stage.network
    batch = dict(frames=rng.integers(0, 256, (b, stage.frames, side, side, 3), np.uint8))
    if "images" in config.data:
        batch["tokens"] = rng.integers(0, text.end_token, (b, text.max_tokens), np.int32)
        batch["tokens"][:, -1] = text.end_token
    else:
        batch["fps"] = rng.uniform(1, 30, b).astype(np.float32)
    return batch


def network_inputs(stage, options, params, batch, key, frozen) -> dict[str, Array]:
    """Keyword arguments of the network in a training step on the batch."""
    if stage.name == "clip":
        return dict(tokens=batch["tokens"], images=stages.to_float(batch["frames"])[:, 0])
    x0, cond = stages.EXAMPLES[stage.name](stage, options, params, batch, key, frozen)
    t = stages.draw_timesteps(stage, key, len(x0))
    x = stage.process.diffuse(x0, t, jax.random.normal(key, x0.shape))
    return dict(x=x, t=t, **cond)


def count_flops(function: Callable, *shapes: Any) -> float:
    """Floating-point operations of a jitted function, as XLA counts them.

    Counted as lowered for a CPU, where no library's kernel hides its work.
    """
    lowered = function.trace(*shapes).lower(lowering_platforms=("cpu",))
    return lowered.cost_analysis()["flops"]


def seconds(call: Callable[[], Any]) -> float:
    """Median time of a call whose result is a tree of arrays, after one that is not counted."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def matrix_peak(dtype: str) -> float:
    """FLOP/s of one device in products of large square matrices, the best of several sizes."""
    rates = []
    for n in (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192):
        a = jax.random.normal(jax.random.key(0), (n, n), dtype) / np.sqrt(n).astype(dtype)
        chain = jax.jit(lambda a: jax.lax.fori_loop(0, 8, lambda i, x: x @ a, a))
        rates.append(8 * 2 * n**3 / seconds(functools.partial(chain, a)))
    return max(rates)


def device_memory() -> int:
    """Bytes that are free on a device."""
    stats = jax.local_devices()[0].memory_stats()
    if stats is None:  # a CPU, whose memory is the machine's
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return stats["bytes_limit"] - stats["bytes_in_use"]
