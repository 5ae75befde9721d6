"""The state of a training and the step that changes it, as pure functions."""

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Key
from ml_collections import ConfigDict
from optax import contrib

from mav import params as params_lib
from mav import sharding, stages


@struct.dataclass
class TrainState:
    """All that a step changes."""

    step: jax.Array
    params: stages.Params
    ema_params: stages.Params
    opt_state: optax.OptState
    skipped: jax.Array  # steps whose loss or gradients were not finite: in all, and in a row


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a stage is trained, as pure functions.

    frozen: stages that tell this one what to draw. loss: a config's `loss`. rate: step -> learning
    rate. trainable: "all", or "temporal", which leaves what the image network had as it is.
    microbatches: parts of a batch that are worked on one after the other, to save memory.
    """

    stage: stages.Stage
    frozen: Mapping[str, stages.Stage]
    loss: Mapping[str, Any]
    rate: optax.Schedule
    optimizer: optax.GradientTransformation
    ema_decay: float
    trainable: str
    microbatches: int

    def init(self, key: Key[Array, ""]) -> TrainState:
        """A fresh state."""
        return self.start(stages.init_params(self.stage, key))

    def start(self, params: stages.Params) -> TrainState:
        """The state before the first step from the given parameters."""
        opt_state = self.optimizer.init(self._split(params)[0])
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, params, params, opt_state, jnp.zeros(2, jnp.int32))

    def step(
        self,
        state: TrainState,
        batch: Mapping[str, Array],
        frozen_params: Mapping[str, stages.Params],
        key: Key[Array, ""],
    ) -> tuple[TrainState, dict[str, Array]]:
        """One optimiser step. Returns the new state and scalars.

        A loss or gradient that is not finite leaves all but the counts as it was.
        """
        trained, rest = self._split(state.params)
        key = jax.random.fold_in(key, state.step)
        loss, metrics, grads = self._gradients(trained, rest, batch, frozen_params, key)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        updates, opt_state = self.optimizer.update(grads, state.opt_state, trained)
        params = _merge(optax.apply_updates(trained, updates), rest)
        # The average forgets its start faster than its rate alone would let it.
        decay = jnp.minimum(self.ema_decay, (1 + state.step) / (10 + state.step))
        ema_params = optax.incremental_update(params, state.ema_params, 1 - decay)

        total, in_a_row = state.skipped
        skipped = jnp.stack([total + ~finite, jnp.where(finite, 0, in_a_row + 1)])
        kept = functools.partial(jax.tree.map, functools.partial(jnp.where, finite))
        rate = self.rate(state.step - total)
        metrics |= dict(loss=loss, grad_norm=grad_norm, learning_rate=rate)
        metrics |= dict(skipped=skipped[0], skipped_in_a_row=skipped[1])
        return (
            TrainState(
                state.step + 1,
                kept(params, state.params),
                kept(ema_params, state.ema_params),
                kept(opt_state, state.opt_state),
                skipped,
            ),
            metrics,
        )

    def together(
        self, frozen_params: Mapping[str, stages.Params]
    ) -> dict[str, tuple[stages.Stage, stages.Params]]:
        """Frozen stages with their parameters."""
        return {name: (self.frozen[name], params) for name, params in frozen_params.items()}

    def _gradients(self, trained, rest, batch, frozen_params, key):
        """Loss, scalars and gradients, averaged over the microbatches."""
        frozen = self.together(frozen_params)

        def loss_fn(trained, batch, key):
            params = _merge(trained, rest)
            return stages.loss(self.stage, self.loss, params, batch, key, frozen)

        def part(batch, key):
            (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained, batch, key)
            return loss, metrics, grads

        n = self.microbatches
        if n == 1:
            return part(batch, key)
        # Every n-th example, so that each device goes on with those that it has.
        parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, n, *x.shape[1:]), 1, 0), batch)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part, batch, key)
        )

        def add(total, inputs):
            return jax.tree.map(lambda a, b: a + b / n, total, part(*inputs)), None

        return jax.lax.scan(add, zeros, (parts, jax.random.split(key, n)))[0]

    def _split(self, params: stages.Params) -> tuple[stages.Params, stages.Params]:
        """Parameters that are trained, and the others."""
        if self.trainable == "all":
            return params, {}
        flat = params_lib.flatten(params)
        sides = [{}, {}]
        for name, leaf in flat.items():
            sides[not params_lib.is_temporal(name)][name] = leaf
        return params_lib.unflatten(sides[0]), params_lib.unflatten(sides[1])


def _merge(a: stages.Params, b: stages.Params) -> stages.Params:
    return params_lib.unflatten(params_lib.flatten(a) | params_lib.flatten(b))


def needs_clip(stage: stages.Stage) -> bool:
    """Whether a stage is conditioned on embeddings."""
    return stage.name == "prior" or getattr(stage.network, "image_tokens", 0) > 0


AT_LEAST_1 = (
    "num_steps", "max_skipped", "log_every", "save_every", "data.batch_size", "data.crop",
    "eval.every", "eval.num_examples", "eval.num_steps",
)  # fmt: skip
NETWORK_AT_LEAST_1 = ("width", "groups", "patch", "head_dim", "text_head_dim", "image_head_dim")


def check(config: ConfigDict) -> None:
    """Raises ValueError for numbers with which no step can be made, before anything is."""
    stage = stages.build(config, config.dtype, config.remat)
    network, crop = stage.network, config.data.crop
    numbers = {name: operator.attrgetter(name)(config) for name in AT_LEAST_1}
    numbers["frames"] = stage.frames
    for name in NETWORK_AT_LEAST_1:
        numbers[f"network.{name}"] = getattr(network, name, 1)
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}={number} must be at least 1.")
    for name, features in _shared_by_heads(stage):
        if features % getattr(network, name):
            raise ValueError(
                f"network.{name}={getattr(network, name)} must divide the {features} features that "
                "heads of attention share."
            )
    if crop > config.data.size:
        raise ValueError(f"data.crop={crop} must be at most data.size={config.data.size}.")
    if stage.name == "clip" and crop != network.image_size:
        raise ValueError(
            f"data.crop={crop} must be network.image_size={network.image_size}, what CLIP sees."
        )
    if stage.low_size is not None and (stage.low_size < 1 or stage.size % stage.low_size):
        raise ValueError(f"low_size={stage.low_size} must divide size={stage.size}.")
    unit = _crop_unit(stage)
    if crop % unit:
        raise ValueError(
            f"data.crop={crop} must be a multiple of {unit}, since the network divides it; set "
            f"config.data.crop to {max(unit, crop - crop % unit)}."
        )


def _shared_by_heads(stage: stages.Stage) -> list[tuple[str, int]]:
    """Names of head sizes, with the features that each has to divide."""
    network = stage.network
    if stage.name == "clip":
        towers = ("text", "image")
        return [(f"{tower}_head_dim", getattr(network, f"{tower}_width")) for tower in towers]
    if stage.name == "prior":
        return [("head_dim", network.width)]
    if not network.attention_levels:
        return []
    widths = [network.width * m for m in network.multipliers]
    attending = [w for level, w in enumerate(widths) if level in network.attention_levels]
    return [("head_dim", features) for features in (*attending, widths[-1])]


def _crop_unit(stage: stages.Stage) -> int:
    """Pixels of which a crop has to be a multiple: by them a U-Net divides it."""
    if stage.name in ("clip", "prior"):
        return 1
    low = stage.size // stage.low_size if stage.low_size else 1
    return math.lcm(stage.network.patch * 2 ** (len(stage.network.multipliers) - 1), low)


def make_recipe(config: ConfigDict, frozen: Mapping[str, stages.Stage]) -> Recipe:
    """The recipe of a config.

    frozen: as in `Recipe`.
    Raises ValueError for impossible values.
    """
    stage = stages.build(config, config.dtype, config.remat, config.scan)
    values, n = config.optimizer, config.microbatches
    if values.trainable not in ("all", "temporal"):
        raise ValueError(f"trainable={values.trainable!r} must be 'all' or 'temporal'.")
    if n < 1 or config.data.batch_size % n:
        raise ValueError(f"microbatches={n} must divide batch_size={config.data.batch_size}.")
    if n > 1 and stage.name == "clip":
        raise ValueError(f"microbatches={n} is impossible for clip, which compares whole batches.")
    rate = make_schedule(values, config.num_steps)
    optimizer = make_optimizer(values, rate)
    loss = config.loss.to_dict()
    return Recipe(stage, frozen, loss, rate, optimizer, values.ema_decay, values.trainable, n)


def make_schedule(config: Mapping[str, Any], num_steps: int) -> optax.Schedule:
    """Step -> learning rate.

    It rises over `warmup_steps`, and falls to zero over the share `cooldown` of all steps, the last
    ones.
    """
    peak, cooldown = config["learning_rate"], round(config["cooldown"] * num_steps)
    rise = optax.linear_schedule(0.0, peak, config["warmup_steps"])
    if not cooldown:
        return rise
    fall = optax.linear_schedule(peak, 0.0, cooldown)
    return optax.join_schedules([rise, fall], [num_steps - cooldown])


def make_optimizer(config: Mapping[str, Any], rate: optax.Schedule) -> optax.GradientTransformation:
    """AdamW, or Muon with AdamW for what is not a hidden matrix, behind a gradient clip.

    Muon (Jordan et al. 2024) makes the step of a matrix orthogonal. A convolution's kernel is one
    from all that a feature sees to that feature. Steps are as large as AdamW's at the same
    learning rate (Liu et al. 2025, §2.2). Raises ValueError for another name.
    """
    if config["name"] == "adamw":
        optimizer = optax.adamw(
            rate,
            b1=config["b1"],
            b2=config["b2"],
            eps=config["eps"],
            weight_decay=config["weight_decay"],
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        )
    elif config["name"] == "muon":
        optimizer = contrib.muon(
            rate,
            adam_b1=config["b1"],
            adam_b2=config["b2"],
            eps=config["eps"],
            weight_decay=config["weight_decay"],
            consistent_rms=0.2,
            muon_weight_dimension_numbers=_matrices,
        )
    else:
        raise ValueError(f"optimizer.name={config['name']!r} must be 'adamw' or 'muon'.")
    return optax.chain(optax.clip_by_global_norm(config["clip_norm"]), optimizer)


def _matrices(params: stages.Params) -> Any:
    """For Muon: the axes of hidden matrices; None for vectors, first and last layers."""
    outer = ("input", "output", "motion", "conditioning", "timestep")

    def axes(path, leaf):
        if leaf.ndim < 2 or path[0].key in outer:
            return None
        return contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)


def shapes(
    config: ConfigDict, clip_config: ConfigDict, mesh: Mesh
) -> tuple[Recipe, TrainState, dict[str, Array], dict[str, stages.Params]]:
    """The recipe of a config, and its state, batch and frozen parameters as placed shapes.

    clip_config: of the CLIP that tells the stage what to draw, where one does.
    Raises ValueError for impossible values.
    """
    check(config)
    clip_stage = stages.build(clip_config, config.dtype)
    frozen = {"clip": clip_stage} if needs_clip(stages.build(config)) else {}
    recipe = make_recipe(config, frozen)
    stage, text = recipe.stage, clip_stage.network
    b, side = config.data.batch_size, config.data.crop
    batch = dict(frames=jax.ShapeDtypeStruct((b, stage.frames, side, side, 3), jnp.uint8))
    if "images" in config.data or getattr(stage.network, "text", False):
        batch["tokens"] = jax.ShapeDtypeStruct((b, text.max_tokens), jnp.int32)
    if "videos" in config.data:
        batch["fps"] = jax.ShapeDtypeStruct((b,), jnp.float32)
        if config.data.stills:
            many = (b, config.data.stills, side, side, 3)
            batch["stills"] = jax.ShapeDtypeStruct(many, jnp.uint8)
    state = jax.eval_shape(lambda: recipe.init(jax.random.key(0)))
    parents = {name: stages.param_shapes(parent) for name, parent in frozen.items()}
    return (
        recipe,
        sharding.placed(state, mesh),
        sharding.placed_examples(batch, mesh),
        sharding.placed(parents, mesh),
    )
