"""Trains the embedded cascade further on one GPU, in minutes.

    python -m launch.train_cutout_gpu draw POOL --stages decoder sr_256    until it is stopped
    python -m launch.train_cutout_gpu train POOL OUT --stages decoder:480 sr_256:110

The small networks learn faster than a host can feed them, so the two are apart: `draw` fills the
folder POOL with examples on all cores, and `train` holds those that are there on the device and
draws its batches from them, many steps to a call. A stage starts from the shipped one, or from that
of another cascade (--init), and its learning rate falls to zero as its seconds end. It leaves
OUT/<stage>.safetensors and a line per call in OUT/<stage>.jsonl. Needs JAX, flax, optax, orbax and
resvg_py.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import multiprocessing
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from mav import folders, recipe
from mav import params as params_lib
from mav.data import sources

EXAMPLES = 32  # in one file of the pool
STEPS = 10  # in one call of the device
SHOWN = ("step", "seconds", "examples", "loss", "skipped")
RUNS = dict(  # share of the drawing, examples held, and what differs from the config
    decoder=dict(
        draws=7,
        capacity=64_000,
        batch_size=32,
        data=dict(fps_start=(0.8, 6.0), fps_end=(0.8, 6.0)),
        optimizer=dict(learning_rate=1.5e-3, cooldown=0.5),
    ),
    interpolation=dict(
        draws=3,
        capacity=40_000,
        batch_size=32,
        # Both 15 fps, between keyframes, and 3 fps, where pictures are set in motion.
        data=dict(fps_start=(0.6, 1.0), fps_end=(0.6, 1.0)),
        loss=dict(masks=dict(every=0.55, first=0.15, last=0.05, ends=0.15, one=0.1)),
        optimizer=dict(learning_rate=1.2e-3, cooldown=0.5),
    ),
    sr_256=dict(
        draws=2,
        capacity=24_000,
        batch_size=16,
        optimizer=dict(learning_rate=1e-3, cooldown=0.5),
    ),
    sr_768=dict(
        draws=1,
        capacity=60_000,
        batch_size=64,
        optimizer=dict(learning_rate=1e-3, cooldown=0.5),
    ),
)


def make_config(name: str):
    """The config of a stage's last phase, with what its entry in RUNS changes."""
    run = RUNS[name]
    config = importlib.import_module(f"configs.{name}").get_config("cutout")
    for table in ("data", "loss", "optimizer"):
        config[table].update(run.get(table, {}))
    config.data.batch_size = run["batch_size"]
    config.optimizer.warmup_steps = 50
    config.dtype = "bfloat16"
    return config


def make_source(name: str, seed: int):
    """Endless examples of a stage, as `mav train` would read them."""
    config = make_config(name)
    config.data.seed = seed
    return sources.make(config.data, config.get("frames", 1), 1, None)


# Drawing


def draw_files(pool: pathlib.Path, name: str, worker: int, workers: int, seed: int) -> None:
    """One of a stage's workers writes every `workers`-th file of its examples."""
    source = make_source(name, seed)
    for number in range(worker, RUNS[name]["capacity"] // EXAMPLES, workers):
        examples = [source[number * EXAMPLES + i] for i in range(EXAMPLES)]
        file = pool / name / f"{number}.npz"
        aside = file.with_suffix(".part.npz")
        np.savez(aside, **{key: np.stack([e[key] for e in examples]) for key in examples[0]})
        os.replace(aside, file)


def draw(pool: pathlib.Path, stages: list[str], workers: int, seed: int) -> None:
    """Fills the pool with examples of some stages until it is stopped."""
    context = multiprocessing.get_context("spawn")
    total = sum(RUNS[name]["draws"] for name in stages)
    processes = []
    for name in stages:
        (pool / name).mkdir(parents=True, exist_ok=True)
        count = max(1, round(workers * RUNS[name]["draws"] / total))
        for worker in range(count):
            arguments = (pool, name, worker, count, seed)
            processes.append(context.Process(target=draw_files, args=arguments, daemon=True))
    for process in processes:
        process.start()
    for process in processes:
        process.join()


# Training


class Pool:
    """The drawn examples of a stage, on the device. They come as they are drawn."""

    def __init__(self, folder: pathlib.Path, capacity: int):
        self.folder, self.capacity = folder, capacity
        self.used, self.count, self.arrays = set[str](), 0, None
        self.write = jax.jit(self._write, donate_argnums=0)

    @staticmethod
    def _write(arrays, new, at):
        put = lambda old, rows: jax.lax.dynamic_update_slice_in_dim(old, rows, at, axis=0)
        return jax.tree.map(put, arrays, new)

    def refill(self, most: int) -> None:
        """Takes in up to `most` new files; waits for the first."""
        while True:
            names = [name for name in os.listdir(self.folder) if not name.endswith(".part.npz")]
            names = sorted(set(names) - self.used)[:most]
            if names or self.count:
                break
            time.sleep(0.2)
        for name in names:
            if self.count + EXAMPLES > self.capacity:
                return
            with np.load(self.folder / name, allow_pickle=False) as file:
                rows = dict(file)
            if self.arrays is None:
                make = lambda x: jnp.zeros((self.capacity, *x.shape[1:]), x.dtype)
                self.arrays = jax.tree.map(make, rows)
            self.arrays = self.write(self.arrays, rows, self.count)
            self.used.add(name)
            self.count += EXAMPLES


def make_steps(config, stage_recipe: recipe.Recipe):
    """A jitted call of STEPS steps; `count` of the examples are there, `rate` holds for all."""

    def steps(state, arrays, count, rate, frozen, key):
        # The rate follows the clock, so it is an argument and no function of the step.
        paced = dataclasses.replace(
            stage_recipe,
            rate=lambda _: rate,
            optimizer=recipe.make_optimizer(config.optimizer, lambda _: rate),
        )

        def step(state, _):
            chosen_key = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)
            chosen = jax.random.randint(chosen_key, (config.data.batch_size,), 0, count)
            batch = jax.tree.map(lambda rows: rows[chosen], arrays)
            return paced.step(state, batch, frozen, key)

        state, metrics = jax.lax.scan(step, state, length=STEPS)
        means = jax.tree.map(lambda x: jnp.mean(x.astype(jnp.float32)), metrics)
        return state, means | dict(skipped=metrics["skipped"][-1])

    return jax.jit(steps, donate_argnums=0)


def train(
    folder: pathlib.Path, out: pathlib.Path, init: str, name: str, seconds: float, seed: int
) -> None:
    """Trains one stage of the cascade `init` for about that many seconds after its compilation."""
    config, start = make_config(name), folders.resolve(init)
    clip_stage, clip_params = folders.load_stage(start, "clip", config.dtype)
    stage_recipe = recipe.make_recipe(config, dict(clip=clip_stage))
    frozen = jax.tree.map(jnp.asarray, dict(clip=clip_params))
    _, params = folders.load_stage(start, name)
    state = jax.jit(stage_recipe.start)(jax.tree.map(jnp.asarray, params))
    key = jax.random.key(seed)

    pool = Pool(folder / name, RUNS[name]["capacity"])
    pool.refill(most=16)
    clock = time.monotonic()
    steps = make_steps(config, stage_recipe)
    count, rate = np.int32(pool.count), np.float32(0)
    steps = steps.lower(state, pool.arrays, count, rate, frozen, key).compile()
    print(f"{name}: compiled in {time.monotonic() - clock:.0f} s", flush=True)

    clock, before, calls, elapsed = time.monotonic(), None, 0, 0.0
    with open(out / f"{name}.jsonl", "w") as log:
        while elapsed < seconds:
            rise = min(1.0, (calls + 1) * STEPS / config.optimizer.warmup_steps)
            fall = min(1.0, (1 - elapsed / seconds) / config.optimizer.cooldown)
            count, rate = np.int32(pool.count), config.optimizer.learning_rate * rise * fall
            state, metrics = steps(state, pool.arrays, count, np.float32(rate), frozen, key)
            pool.refill(most=6)
            calls, elapsed = calls + 1, time.monotonic() - clock
            if before is not None and calls % 10 == 0:
                seen = {kind: float(value) for kind, value in before.items()}
                seen = dict(step=calls * STEPS, seconds=elapsed, examples=pool.count) | seen
                log.write(json.dumps(seen) + "\n")
                if calls % 100 == 0:
                    print(name, ", ".join(f"{kind} {seen[kind]:.4g}" for kind in SHOWN), flush=True)
            jax.block_until_ready(before)  # one call runs ahead
            before = metrics
    save = functools.partial(params_lib.save, out / f"{name}.safetensors", dtype=np.float16)
    save(jax.device_get(state.ema_params))
    print(f"{name}: {int(state.step)} steps in {elapsed:.0f} s", flush=True)


def main() -> None:
    """Draws or trains, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing, training = commands.add_parser("draw"), commands.add_parser("train")
    for command in (drawing, training):
        command.add_argument("pool", type=pathlib.Path)
        command.add_argument("--seed", type=int, default=0, help="another one, other examples")
    drawing.add_argument("--workers", type=int, default=os.cpu_count())
    drawing.add_argument("--stages", nargs="+", default=list(RUNS), choices=list(RUNS))
    training.add_argument("out", type=pathlib.Path)
    training.add_argument("--stages", nargs="+", required=True, metavar="STAGE:SECONDS")
    training.add_argument("--init", default="cutout")
    options = parser.parse_args()
    if options.command == "draw":
        draw(options.pool, options.stages, options.workers, options.seed)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for stage in options.stages:
        name, seconds = stage.split(":")
        train(options.pool, options.out, options.init, name, float(seconds), options.seed)


if __name__ == "__main__":
    main()
