"""How fast a stage computes here: `mav bench --config configs/decoder.py:cutout,video`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from mav import bars, program, sharding, stages
from mav import recipe as recipe_lib


class Row(NamedTuple):
    """What one program does and needs."""

    name: str
    seconds: float
    flops: float  # on all devices
    bytes: int  # on each device


def run(config: ConfigDict, clip_config: ConfigDict) -> None:
    """Times a stage's forward pass and training step on random data, and prints a report.

    clip_config: of the CLIP that tells the stage what to draw; it is random too.
    Raises ValueError for impossible values, or if a program does not fit into memory.
    """
    mesh = sharding.make_mesh(config.mesh)
    rows, error = measure(config, clip_config)
    peak = program.matrix_peak(config.dtype) * mesh.size
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
    with sharding.use(mesh):
        return _measure(config, clip_config, mesh)


def _measure(config, clip_config, mesh):
    recipe, state, batch, parents = recipe_lib.shapes(config, clip_config, mesh)
    stage, key = recipe.stage, jax.random.key(config.seed)
    layouts = jax.tree.map(lambda leaf: leaf.sharding, (state, parents))
    make_state = lambda key: recipe.start(noise(state.params, key))
    make_state = jax.jit(make_state, out_shardings=layouts[0])
    make_parents = lambda key: {name: noise(leaves, key) for name, leaves in parents.items()}
    make_parents = jax.jit(make_parents, out_shardings=layouts[1])

    def make_inputs(params, batch, parents, key):
        together = recipe.together(parents)
        return network_inputs(stage, recipe.loss, params, batch, key, together)

    def forward(params, inputs):
        return stage.network.apply({"params": params}, **inputs)

    def exact(params, inputs):
        return stages.build(config).network.apply({"params": params}, **inputs)

    inputs = jax.eval_shape(make_inputs, state.params, batch, parents, key)
    inputs = sharding.placed_examples(inputs, mesh)
    make_inputs = jax.jit(make_inputs, out_shardings=jax.tree.map(lambda x: x.sharding, inputs))
    step = jax.jit(recipe.step, donate_argnums=0, out_shardings=(layouts[0], None))

    with bars.bar(total=5, leave=False) as bar:

        def begin(what: str) -> None:
            bar.set_description(what)
            bar.update()

        begin("compiling the forward pass")
        forward = compiled(jax.jit(forward), state.params, inputs)
        begin("compiling the training step")
        step = compiled(step, state, batch, parents, key)

        begin("timing the forward pass")
        batch = sharding.shard_batch(random_batch(config, batch), mesh, config.data.batch_size)
        state, parents = make_state(key), make_parents(key)
        inputs = make_inputs(state.params, batch, parents, key)
        forward_seconds = program.seconds(lambda: forward(state.params, inputs))
        begin("comparing with float32")
        wanted = jax.jit(exact)(state.params, inputs)
        error = jnp.mean((forward(state.params, inputs) - wanted) ** 2) / jnp.mean(wanted**2)

        begin("timing the training step")

        def one_step():
            nonlocal state
            state, metrics = step(state, batch, parents, key)  # the old state is given up
            return metrics

        step_seconds = program.seconds(one_step)
    rows = [
        Row("forward", forward_seconds, forward.flops, forward.bytes),
        Row("training step", step_seconds, step.flops, step.bytes),
    ]
    return rows, float(jnp.sqrt(error))


def compiled(function: Callable, *shapes: Any) -> program.Program:
    """The function for these shapes.

    Raises ValueError if it needs more memory than a device has, before any is taken.
    """
    found, free = program.Program(function, *shapes), program.free_memory()
    if found.bytes > free:
        raise ValueError(
            f"this needs {found.bytes / 2**30:.1f} GiB on each device, which has "
            f"{free / 2**30:.1f} GiB free; lower data.batch_size."
        )
    return found


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


def random_batch(config: ConfigDict, shapes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A batch as the config's data gives it, of noise."""
    rng = np.random.default_rng(config.seed)
    draw = dict(
        frames=lambda shape: rng.integers(0, 256, shape, np.uint8),
        stills=lambda shape: rng.integers(0, 256, shape, np.uint8),
        tokens=lambda shape: np.arange(np.prod(shape), dtype=np.int32).reshape(shape) % 256,
        fps=lambda shape: rng.uniform(1, 30, shape).astype(np.float32),
    )
    return {name: draw[name](leaf.shape) for name, leaf in shapes.items()}


def network_inputs(stage, options, params, batch, key, frozen) -> dict[str, Array]:
    """Keyword arguments of the network in a training step on the batch."""
    if stage.name == "clip":
        return dict(tokens=batch["tokens"], images=stages.to_float(batch["frames"])[:, 0])
    x0, cond = stages.EXAMPLES[stage.name](stage, options, params, batch, key, frozen)
    t = stages.draw_timesteps(stage, key, len(x0))
    x = stage.process.diffuse(x0, t, jax.random.normal(key, x0.shape))
    if stages.takes_last_x0(stage):
        cond["last_x0"] = x0
    return dict(x=x, t=t, **cond)
