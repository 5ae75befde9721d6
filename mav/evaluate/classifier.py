"""The judge of the cutout world: a small network that names what a picture shows, and where.

It learns from real pictures alone, of all pairs of object and colour, and ships with mav. To train
it anew (about half an hour on two CPU cores; needs `pip install mav[train]`):

    python -m mav.evaluate.classifier --out judge.safetensors
"""

import argparse
import dataclasses
import functools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, UInt8

from mav import bars, media
from mav import params as params_lib
from mav.data import cutout

SHIPPED = pathlib.Path(__file__).parent / "cutout_classifier.safetensors"
SIZE = 64  # of the pictures it looks at
CLASSES = dict(object=cutout.OBJECTS, colour=cutout.COLOURS, setting=cutout.SETTINGS)
POSITION_WEIGHT = 10.0  # of the loss; errors are a hundredth of the frame
FIELDS = ("widths", "depths", "patches", "groups")  # of `Classifier`, as the card keeps them
SHIFT = 4  # pixels that training moves pictures by, at most

# The network.


class Block(nn.Module):
    """Norm, activation, convolution; added to its input."""

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = nn.silu(nn.GroupNorm(self.groups)(x))
        return x + nn.Conv(x.shape[-1], (3, 3))(y)


class Classifier(nn.Module):
    """Object, colour and setting of a picture with one thing in it, and the thing's centre."""

    widths: tuple[int, ...] = (48, 96)  # not powers of two: XLA:CPU's convolutions are faster so
    depths: tuple[int, ...] = (3, 3)
    patches: tuple[int, ...] = (4, 2)  # sides of the squares that each level joins
    groups: int = 8

    @nn.compact
    def __call__(self, x: Float[Array, "b 64 64 3"]) -> dict[str, Float[Array, "b n"]]:
        """x: in [-1, 1]. Logits by attribute; `position`, x and y in the unit square; `seen`, what
        is at the thing and all over the picture, for who watches videos of it.
        """
        for width, depth, p in zip(self.widths, self.depths, self.patches, strict=True):
            x = nn.Dense(width)(rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=p, q=p))
            for _ in range(depth):
                x = Block(self.groups)(x)
        x = nn.silu(nn.GroupNorm(self.groups)(x))

        # A heat map says roughly where the thing is; what is seen there says what it is, and how
        # far its centre lies from the map's.
        b, h, w, _ = x.shape
        heat = nn.softmax(nn.Dense(1, name="heat")(x).reshape(b, h * w))
        y, x_axis = np.divmod(np.arange(h * w), w)
        centres = np.stack([(x_axis + 0.5) / w, (y + 0.5) / h], axis=1).astype(np.float32)
        thing = jnp.einsum("bn,bnc->bc", heat, x.reshape(b, h * w, -1))
        everywhere = x.mean((1, 2))
        return dict(
            object=nn.Dense(len(cutout.OBJECTS), name="object")(thing),
            colour=nn.Dense(len(cutout.COLOURS), name="colour")(thing),
            setting=nn.Dense(len(cutout.SETTINGS), name="setting")(everywhere),
            position=heat @ centres
            + nn.Dense(2, kernel_init=nn.initializers.zeros, name="offset")(thing),
            seen=jnp.concatenate([thing, everywhere, x.std((1, 2))], axis=1),
        )


# Judging.


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a judge sees in the frames of a video: indices into the lists of `cutout`.

    seen: features, from which `video_classifier` tells how the frames follow each other.
    """

    object: Int[np.ndarray, "f"]
    colour: Int[np.ndarray, "f"]
    setting: Int[np.ndarray, "f"]
    position: Float[np.ndarray, "f 2"]  # x right, y down, in the unit square
    seen: Float[np.ndarray, "f d"]


@functools.partial(jax.jit, static_argnums=0)
def _look(network, params, frames):
    return network.apply({"params": params}, frames.astype(jnp.float32) / 127.5 - 1)


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained classifier.

    card: config, seed, steps and measured accuracy, from beside it, and its file's sha256.
    """

    network: Classifier
    params: params_lib.Params
    card: dict[str, Any]

    def __call__(self, frames: UInt8[np.ndarray, "f h w 3"]) -> Verdict:
        """Looks at square frames of any size, which it shrinks by averaging areas."""
        if frames.shape[1] != frames.shape[2]:
            raise ValueError(f"frames are {list(frames.shape)}; the judge wants square ones.")
        seen = _look(self.network, self.params, media.resize(frames, SIZE, "box"))
        seen = jax.device_get(seen)
        named = {name: seen[name].argmax(1) for name in CLASSES}
        return Verdict(**named, position=seen["position"], seen=seen["seen"])


def load(path: str | os.PathLike = SHIPPED) -> Judge:
    """The shipped judge, or another that `main` wrote.

    Raises ValueError if a file is damaged or was trained on other lists of names."""
    card = params_lib.read_json(pathlib.Path(path).with_suffix(".json"))
    for name, classes in CLASSES.items():
        if card["classes"][name] != list(classes):
            raise ValueError(f"{path} knows other {name}s than mav.data.cutout; train it anew.")
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in card["config"].items()}
    network = Classifier(**config)
    card["sha256"] = params_lib.checksum(path)
    return Judge(network, jax.device_put(params_lib.load(path, _shapes(network))), card)


def _shapes(network: Classifier) -> params_lib.Params:
    frames = jnp.zeros((1, SIZE, SIZE, 3))
    return jax.eval_shape(network.init, jax.random.key(0), frames)["params"]


# Real pictures.


def draw(
    rng: np.random.Generator, size: int = SIZE
) -> tuple[UInt8[np.ndarray, "64 64 3"], dict[str, Any]]:
    """A random picture with one thing in it, rendered at `size`, and the right answers."""
    chosen = {name: int(rng.integers(len(classes))) for name, classes in CLASSES.items()}
    names = {name: CLASSES[name][index] for name, index in chosen.items()}
    scene = cutout.make_scene(
        **names,
        size=cutout.SIZES[rng.integers(len(cutout.SIZES))],
        place=cutout.PLACES[rng.integers(len(cutout.PLACES))],
        seed=int(rng.integers(2**32)),
    )
    time = rng.uniform(0, cutout.VIDEO_FRAMES / cutout.NATIVE_FPS)
    picture = media.resize(cutout.render(scene, time, size), SIZE, "box")
    position = np.float32(cutout.position(scene.things[0], scene.setting, time))
    return picture, chosen | dict(position=position)


def draw_many(
    seed: Any, count: int, size: int = SIZE, every_large: int = 0, bar: bool = False
) -> tuple[UInt8[np.ndarray, "n 64 64 3"], dict[str, np.ndarray]]:
    """`count` pictures, and their answers as arrays.

    every_large: one picture in so many is rendered at 256; 0 is none. bar: report progress.
    """
    rng = np.random.default_rng(seed)
    pictures, answers = [], []
    for i in bars.bar(range(count), desc="pictures", unit="picture", disable=not bar):
        large = every_large and i % every_large == 0
        picture, answer = draw(rng, 256 if large else size)
        pictures.append(picture)
        answers.append(answer)
    columns = {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}
    return np.stack(pictures), columns


def measure(judge: Judge, pictures: UInt8[np.ndarray, "n 64 64 3"], answers) -> dict[str, float]:
    """Accuracy per attribute; error of the centre in frame widths, median and 95 %."""
    verdicts = [judge(pictures[i : i + 100]) for i in range(0, len(pictures), 100)]
    join = lambda name: np.concatenate([getattr(verdict, name) for verdict in verdicts])
    found = {name: float((join(name) == answers[name]).mean()) for name in CLASSES}
    error = np.linalg.norm(join("position") - answers["position"], axis=1)
    return found | dict(
        position_error=float(np.median(error)), position_error_95=float(np.quantile(error, 0.95))
    )


# Training.


def augment(
    key: Key[Array, ""], x: Float[Array, "b 64 64 3"], position: Float[Array, "b 2"]
) -> tuple[Float[Array, "b 64 64 3"], Float[Array, "b 2"]]:
    """Mirrors and shifts pictures, blurs, tints and adds noise, as generated ones may be."""
    keys = jax.random.split(key, 6)
    uniform = lambda key, c, low, high: jax.random.uniform(
        key, (len(x), 1, 1, c), x.dtype, low, high
    )

    mirrored = jax.random.bernoulli(keys[0], 0.5, (len(x),))
    x = jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
    flipped = jnp.stack([1 - position[:, 0], position[:, 1]], axis=1)
    position = jnp.where(mirrored[:, None], flipped, position)

    corner = jax.random.randint(keys[5], (len(x), 2), 0, 2 * SHIFT + 1)  # left, top of the window
    padded = jnp.pad(x, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    window = lambda x, at: jax.lax.dynamic_slice(x, (at[1], at[0], 0), (SIZE, SIZE, 3))
    x = jax.vmap(window)(padded, corner)
    position += (SHIFT - corner) / SIZE

    binomial = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
    blurred = x
    for axis in (1, 2):
        pad = [(2, 2) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(blurred, pad, mode="edge")
        blurred = sum(
            tap * jax.lax.slice_in_dim(padded, i, i + SIZE, axis=axis)
            for i, tap in enumerate(binomial)
        )
    # Half of the pictures stay sharp.
    x += jnp.maximum(uniform(keys[1], 1, -1.0, 1.0), 0) * (blurred - x)
    x = x * (1 + uniform(keys[2], 3, -0.08, 0.08)) + uniform(keys[3], 1, -0.1, 0.1)
    level_key, noise_key = jax.random.split(keys[4])
    x += uniform(level_key, 1, 0.0, 0.08) * jax.random.normal(noise_key, x.shape, x.dtype)
    return jnp.clip(x, -1, 1), position


def loss_fn(network: Classifier, params, x, answers) -> Float[Array, ""]:
    """Cross-entropies, and the distance of the centre along both axes."""
    seen = network.apply({"params": params}, x)
    loss = POSITION_WEIGHT * jnp.abs(seen["position"] - answers["position"]).mean()
    for name in CLASSES:
        right = jax.nn.one_hot(answers[name], len(CLASSES[name]))
        loss -= (nn.log_softmax(seen[name]) * right).sum(1).mean()
    return loss


def train(
    network: Classifier, pictures, answers, seed: int, num_steps: int, batch_size: int = 128
) -> params_lib.Params:
    """Parameters after so many steps of AdamW on augmented pictures."""
    import optax  # belongs to training; judging does without

    schedule = optax.warmup_cosine_decay_schedule(0, 3e-3, num_steps // 10, num_steps)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.02)
    )
    key, init_key = jax.random.split(jax.random.key(seed))
    params = network.init(init_key, jnp.zeros((1, SIZE, SIZE, 3)))["params"]
    state = optimiser.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step_fn(params, state, step, pictures, answers):
        x, position = augment(
            jax.random.fold_in(key, step), pictures / 127.5 - 1.0, answers["position"]
        )
        answers = answers | dict(position=position)
        loss, gradients = jax.value_and_grad(functools.partial(loss_fn, network))(
            params, x, answers
        )
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    bar = bars.bar(range(num_steps), desc="training", unit="step")
    for step in bar:
        chosen = np.random.default_rng((seed, step)).integers(len(pictures), size=batch_size)
        batch = {name: values[chosen] for name, values in answers.items()}
        params, state, loss = step_fn(
            params, state, step, pictures[chosen].astype(np.float32), batch
        )
        if step % 50 == 0:
            bar.set_postfix(loss=f"{float(loss):.3f}")
    return params


def main():
    """Draws pictures, trains on them, measures on fresh ones, and writes weights and card."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .safetensors file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_steps", type=int, default=2400)
    parser.add_argument("--num_pictures", type=int, default=40_000)
    args = parser.parse_args()

    network = Classifier()
    pictures, answers = draw_many((args.seed, 0), args.num_pictures, every_large=20, bar=True)
    params = train(network, pictures, answers, args.seed, args.num_steps)
    params_lib.save(args.out, params, np.float16)

    # What is measured is what ships: rounded to float16, and pictures that training never drew.
    judge = Judge(network, params_lib.load(args.out, _shapes(network)), {})
    test = {
        str(size): measure(judge, *draw_many((args.seed, size), count, size, bar=True))
        for size, count in ((64, 4000), (256, 400), (768, 200))
    }
    card = dict(
        config={name: getattr(network, name) for name in FIELDS},
        classes=CLASSES,
        seed=args.seed,
        num_steps=args.num_steps,
        num_pictures=args.num_pictures,
        num_parameters=params_lib.count(params),
        test=test,
    )
    params_lib.write_json(args.out.with_suffix(".json"), card)
    for size, found in test.items():
        print(f"rendered at {size}: " + ", ".join(f"{k} {v:.4f}" for k, v in found.items()))


if __name__ == "__main__":
    main()
