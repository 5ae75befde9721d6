"""What cutout-FVD and cutout-IS look through: a small network that watches videos with the judge.

The judge (`mav.evaluate.classifier`) looks at each frame; this one learns, from drawn clips alone,
what its looks say in a row: what is seen, where to and how fast it moves, and whether the frames
are in order. Numbers in its features are comparable with each other, and with none of Kinetics. To
train it anew (needs `pip install mav[train]`):

    python -m mav.evaluate.video_classifier --out cutout_video_classifier.safetensors
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
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from mav import bars
from mav import params as params_lib
from mav.data import cutout
from mav.evaluate import classifier

SHIPPED = pathlib.Path(__file__).parent / "cutout_video_classifier.safetensors"
FRAMES = 16  # of the clips it watches
SLOWEST, FASTEST = 1.0, 15.0  # fps of the clips it learns from, evenly in their logarithm
STILL = 0.05  # of the frame's width: what is as near at the end as it was at first has not gone
PACES = (0.006, 0.015, 0.03)  # widths of the frame per frame; limits between the classes of pace
WAYS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")
CLASSES = dict(
    classifier.CLASSES,
    way=("nowhere", *WAYS),
    pace=("still", "slow", "brisk", "fast"),
    order=("in order", "shuffled"),
)
FIELDS = ("width", "depth", "features")  # of `VideoClassifier`, as the card keeps them

# The network.


class VideoClassifier(nn.Module):
    """Names what a clip shows and how it moves, all from the same few features."""

    width: int = 96
    depth: int = 3
    features: int = 32  # few, so that some hundred videos tell their covariance

    @nn.compact
    def __call__(
        self, seen: Float[Array, "b f d"], position: Float[Array, "b f 2"]
    ) -> dict[str, Float[Array, "b n"]]:
        """seen, position: of the judge. Logits by label, and `features`, which they are read from.

        Steps from frame to frame are a few hundredths of the frame: given as they are beside what
        is seen, the network would overlook them.
        """
        steps = jnp.diff(position, axis=1, append=position[:, -1:]) / PACES[-1]
        x = jnp.concatenate([nn.LayerNorm()(seen), 4 * position - 2, steps], axis=-1)
        x = nn.Dense(self.width)(x)
        for _ in range(self.depth):
            y = jnp.pad(nn.silu(nn.LayerNorm()(x)), ((0, 0), (1, 1), (0, 0)))
            # A convolution over three frames; XLA:CPU's own takes minutes to compile.
            x = x + nn.Dense(self.width)(jnp.concatenate([y[:, :-2], y[:, 1:-1], y[:, 2:]], -1))
        x = jnp.concatenate([x.mean(1), x.std(1)], axis=-1)
        x = nn.Dense(self.features, name="features")(nn.silu(nn.LayerNorm()(x)))
        logits = {name: nn.Dense(len(known), name=name)(x) for name, known in CLASSES.items()}
        return dict(logits, features=x)


# Watching.


@functools.partial(jax.jit, static_argnums=0)
def _watch(network, params, seen, position):
    return network.apply({"params": params}, seen, position)


@dataclasses.dataclass(frozen=True)
class Watcher:
    """A trained video classifier.

    card: config, seed, steps and accuracy, from beside it, and its file's sha256.
    """

    network: VideoClassifier
    params: params_lib.Params
    card: dict[str, Any]

    def __call__(self, verdict: classifier.Verdict) -> dict[str, Float[np.ndarray, "n"]]:
        """Watches 16 frames, evenly spaced over a video that the judge has looked at."""
        chosen = np.linspace(0, len(verdict.position) - 1, FRAMES).round().astype(int)
        found = _watch(
            self.network, self.params, verdict.seen[None, chosen], verdict.position[None, chosen]
        )
        return {name: values[0] for name, values in jax.device_get(found).items()}


def load(path: str | os.PathLike = SHIPPED) -> Watcher:
    """The shipped video classifier, or another that `main` wrote.

    Raises ValueError if a file is damaged or was trained on other lists of names."""
    card = params_lib.read_json(pathlib.Path(path).with_suffix(".json"))
    for name, known in CLASSES.items():
        if card["classes"][name] != list(known):
            raise ValueError(f"{path} knows other classes of {name}; train it anew.")
    network = VideoClassifier(**card["config"])
    card["sha256"] = params_lib.checksum(path)
    return Watcher(network, jax.device_put(params_lib.load(path, _shapes(network))), card)


def _shapes(network: VideoClassifier) -> params_lib.Params:
    judge = classifier.load()
    pictures = jnp.zeros((FRAMES, classifier.SIZE, classifier.SIZE, 3))
    looks = jax.eval_shape(lambda x: judge.network.apply({"params": judge.params}, x), pictures)
    fresh = lambda: network.init(
        jax.random.key(0),
        jnp.zeros((1, *looks["seen"].shape)),
        jnp.zeros((1, *looks["position"].shape)),
    )
    return jax.eval_shape(fresh)["params"]


# Drawn clips.


def draw(rng: np.random.Generator) -> tuple[UInt8[np.ndarray, "16 64 64 3"], dict[str, int]]:
    """A random clip of one thing, held-out movers too, and the right answers but for `order`."""
    chosen = {name: int(rng.integers(len(known))) for name, known in classifier.CLASSES.items()}
    scene = cutout.make_scene(
        **{name: CLASSES[name][index] for name, index in chosen.items()},
        size=cutout.SIZES[rng.integers(len(cutout.SIZES))],
        place=cutout.PLACES[rng.integers(len(cutout.PLACES))],
        seed=int(rng.integers(2**32)),
    )
    fps = np.exp(rng.uniform(np.log(SLOWEST), np.log(FASTEST)))
    lasts = cutout.VIDEO_FRAMES / cutout.NATIVE_FPS
    times = rng.uniform(0, lasts - (FRAMES - 1) / fps) + np.arange(FRAMES) / fps
    clip = np.stack([cutout.render(scene, time, classifier.SIZE) for time in times])
    path = np.array([cutout.position(scene.things[0], scene.setting, time) for time in times])
    return clip, chosen | movement(path)


def movement(path: Float[np.ndarray, "f 2"]) -> dict[str, int]:
    """The way and the pace of a centre, as indices into their classes."""
    x, y = path[-1] - path[0]
    octant = round(np.arctan2(y, x) / (np.pi / 4)) % len(WAYS)
    pace = np.linalg.norm(np.diff(path, axis=0), axis=1).mean()
    return dict(
        way=0 if np.hypot(x, y) <= STILL else 1 + octant,
        pace=int(np.searchsorted(PACES, pace)),
    )


def draw_many(
    judge: classifier.Judge, seed: Any, count: int, bar: bool = False
) -> dict[str, np.ndarray]:
    """What the judge sees in so many clips, and the answers, as arrays. bar: report progress."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in bars.bar(range(count), desc="clips", unit="clip", disable=not bar):
        clip, answers = draw(rng)
        verdict = judge(clip)
        rows.append(answers | dict(seen=verdict.seen, position=verdict.position))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def shuffled(clips: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The clips with the frames of every other one in a random order, and `order`."""
    order = np.arange(len(clips["seen"])) % 2
    frames = np.tile(np.arange(FRAMES), (len(order), 1))
    frames[order == 1] = rng.permuted(frames[order == 1], axis=1)
    moved = {
        name: np.take_along_axis(clips[name], frames[:, :, None], axis=1)
        for name in ("seen", "position")
    }
    return clips | moved | dict(order=order)


def measure(watcher: Watcher, clips: dict[str, np.ndarray]) -> dict[str, float]:
    """Accuracy per label; of how things move, on clips in order alone."""
    found = _watch(watcher.network, watcher.params, clips["seen"], clips["position"])
    right = {name: np.asarray(found[name]).argmax(1) == clips[name] for name in CLASSES}
    for name in ("way", "pace"):
        right[name] = right[name][clips["order"] == 0]
    return {name: float(values.mean()) for name, values in right.items()}


# Training.


def loss_fn(network: VideoClassifier, params, clips) -> Float[Array, ""]:
    """Cross-entropies of all labels; shuffled clips have no way and no pace."""
    found = network.apply({"params": params}, clips["seen"], clips["position"])
    loss = 0.0
    for name, known in CLASSES.items():
        right = jax.nn.one_hot(clips[name], len(known))
        each = -(nn.log_softmax(found[name]) * right).sum(1)
        if name in ("way", "pace"):
            each *= clips["order"] == 0
        loss += each.mean()
    return loss


def train(
    network: VideoClassifier, clips, seed: int, num_steps: int, batch_size: int = 128
) -> params_lib.Params:
    """Parameters after so many steps of AdamW."""
    import optax  # belongs to training; watching does without

    schedule = optax.warmup_cosine_decay_schedule(0, 2e-3, num_steps // 10, num_steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.1))
    params = network.init(jax.random.key(seed), clips["seen"][:1], clips["position"][:1])["params"]
    state = optimiser.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step_fn(params, state, clips):
        loss, gradients = jax.value_and_grad(functools.partial(loss_fn, network))(params, clips)
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    bar = bars.bar(range(num_steps), desc="training", unit="step")
    for step in bar:
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(clips["seen"]), size=batch_size)
        batch = shuffled({name: values[chosen] for name, values in clips.items()}, rng)
        params, state, loss = step_fn(params, state, batch)
        if step % 50 == 0:
            bar.set_postfix(loss=f"{float(loss):.3f}")
    return params


def main():
    """Draws clips, trains on them, measures on fresh ones, and writes weights and card."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .safetensors file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_steps", type=int, default=1500)
    parser.add_argument("--num_clips", type=int, default=4000)
    args = parser.parse_args()

    judge, network = classifier.load(), VideoClassifier()
    clips = draw_many(judge, (args.seed, 0), args.num_clips, bar=True)
    params = train(network, clips, args.seed, args.num_steps)
    params_lib.save(args.out, params, np.float16)

    # What is measured is what ships: rounded to float16, and clips that training never drew.
    watcher = Watcher(network, params_lib.load(args.out, _shapes(network)), {})
    rng = np.random.default_rng((args.seed, 2))
    test = measure(watcher, shuffled(draw_many(judge, (args.seed, 1), 600, bar=True), rng))
    card = dict(
        config={name: getattr(network, name) for name in FIELDS},
        classes=CLASSES,
        seed=args.seed,
        num_steps=args.num_steps,
        num_clips=args.num_clips,
        num_parameters=params_lib.count(params),
        test=test,
    )
    params_lib.write_json(args.out.with_suffix(".json"), card)
    print(", ".join(f"{name} {value:.4f}" for name, value in test.items()))


if __name__ == "__main__":
    main()
