"""Training of one stage: `mav train --config configs/decoder.py:cutout,video --workdir runs/x`."""

import contextlib
import functools
import os
import signal
from collections.abc import Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from clu import parameter_overview
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from mav import checkpoint, folders, media, monitor, processes, program, samplers, sharding, stages
from mav import params as params_lib
from mav import recipe as recipe_lib
from mav import tokenizer as tokenizer_lib
from mav.data import sources


def preview(
    recipe: recipe_lib.Recipe, num_steps: int, params, batch, frozen_params, key
) -> list[jax.Array]:
    """Rows of float [b, f, h, w, 3] in [-1, 1]: what is given (if any), real, and sampled."""
    example_key, sample_key = jax.random.split(key)
    stage, frozen = recipe.stage, recipe.together(frozen_params)
    x0, cond = stages.EXAMPLES[stage.name](stage, recipe.loss, params, batch, example_key, frozen)
    if "drop_image" in cond:
        cond["drop_image"] = jnp.zeros_like(cond["drop_image"])
    given = [cond[name] for name in ("low_res", "keyframes") if name in cond]
    sampled = samplers.sample(
        stages.predictor(stage, params, cond),
        stage.process,
        sample_key,
        x0.shape,
        num_steps=num_steps,
        spacing="trailing",
    )
    return [*given, x0, sampled]


def draw(rows: Sequence[np.ndarray]) -> np.ndarray:
    """A picture of `preview`: images side by side; videos one below another, eight frames each."""
    if rows[0].shape[1] == 1:
        return media.grid(np.concatenate(rows)[:, 0], columns=len(rows[0]))
    return media.contact_sheet([row[i] for i in range(len(rows[0])) for row in rows], columns=8)


def load_parent(path: str, name: str, dtype: str, mesh: Mesh) -> tuple[stages.Stage, stages.Params]:
    """A stage and its parameters, from a run's folder or out of a cascade (a folder or a name)."""
    if (epath.Path(path) / "checkpoints").is_dir():
        stage, params, _ = checkpoint.load_ema(path, dtype, mesh)
        return stage, params
    return folders.load_stage(folders.resolve(path), name, dtype, mesh)


def make_tokenizer(config: ConfigDict, workdir: epath.Path) -> tokenizer_lib.Tokenizer | None:
    """The tokenizer, where the stage reads text: CLIP's run learns it, all others take CLIP's."""
    if config.stage not in ("clip", "prior") and not config.network.get("text", False):
        return None
    if config.stage != "clip":
        path = folders.resolve(config.clip) / "tokenizer.json"
        return tokenizer_lib.Tokenizer.load(path, config.inputs.max_tokens)
    path, data = workdir / "tokenizer.json", config.data
    if processes.is_first() and not path.exists():
        images = sources.open_source("images", data.images, data.split)
        captions = [images.caption(i) for i in range(data.tokenizer_captions)]
        words = sorted({word for text in captions for word in tokenizer_lib.words(text)})
        params_lib.write_json(workdir / "words.json", dict(words=words))
        bpe = tokenizer_lib.train(captions, config.network.vocabulary_size)
        tokenizer_lib.Tokenizer(bpe, config.network.max_tokens, 0).save(path)
    processes.wait_for_all("tokenizer")
    result = tokenizer_lib.Tokenizer.load(path, config.network.max_tokens)
    wanted = (config.network.vocabulary_size, config.network.end_token)
    if (result.vocabulary_size, result.end_token) != wanted:
        raise ValueError(
            f"the tokenizer has {result.vocabulary_size} tokens and ends with {result.end_token}; "
            f"set network.vocabulary_size and network.end_token, now {wanted}, to these."
        )
    return result


def load_batches(
    source: Any, config: ConfigDict, mesh: Mesh, start: int
) -> grain.DatasetIterator[dict[str, np.ndarray]]:
    """This process's rows of every batch from step `start` on, whoever reads them. To be closed."""
    rows = sources.Rows(source, config.batch_size, sharding.local_rows(mesh, config.batch_size))
    dataset = grain.MapDataset.source(rows)[start * len(rows.rows) :]
    dataset = dataset.to_iter_dataset(grain.ReadOptions(config.threads, config.prefetch))
    if config.workers and not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain's workers ask for its flags, which all keep defaults
    buffer = max(1, config.prefetch // max(1, config.workers))
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(config.workers, buffer))
    return iter(dataset.batch(len(rows.rows), drop_remainder=True))


class Stop:
    """Within it, SIGTERM asks the run to end after the step that it is in."""

    def __init__(self):
        self.told = False
        # Of several processes each may hear of it at another time; JAX lets them agree on a step.
        self.alone = jax.process_count() == 1

    def __enter__(self) -> "Stop":
        if self.alone:
            self.usual = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *_: Any) -> None:
        if self.alone:
            signal.signal(signal.SIGTERM, self.usual)

    def _hear(self, *_: Any) -> None:
        self.told = True

    def after(self, step: int) -> bool:
        """Whether this step is to be the last."""
        return self.told if self.alone else multihost_utils.reached_preemption_sync_point(step)


def run(config: ConfigDict, workdir: str | os.PathLike) -> int:
    """Trains until `config.num_steps`, from the newest checkpoint in workdir if there is one.

    workdir: a folder that all processes see, or a bucket's gs://...

    Returns the step that it got to, an earlier one if SIGTERM asked for it.
    Raises ValueError for an impossible config, or after `config.max_skipped` steps in a row whose
    gradients were not finite; OSError if a checkpoint cannot be written.
    """
    recipe_lib.check(config)
    mesh = sharding.make_mesh(config.mesh)
    peak = program.matrix_peak(config.dtype) * mesh.size
    with sharding.use(mesh):
        return _run(config, epath.Path(workdir), mesh, peak)


def _run(config: ConfigDict, workdir: epath.Path, mesh: Mesh, peak: float) -> int:
    # Model
    parents = {}
    if config.get("clip"):
        parents["clip"] = load_parent(config.clip, "clip", config.dtype, mesh)
    frozen_params = {name: params for name, (_, params) in parents.items()}
    recipe = recipe_lib.make_recipe(config, {name: stage for name, (stage, _) in parents.items()})
    if recipe_lib.needs_clip(recipe.stage) and not parents:
        raise ValueError(
            f"{config.stage} is told what CLIP sees; name CLIP's run or a cascade by --config.clip."
        )

    # State, born sharded
    init_key, key = jax.random.split(jax.random.key(config.seed))
    abstract = sharding.placed(jax.eval_shape(recipe.init, init_key), mesh)
    layout = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    (workdir / "samples").mkdir(parents=True, exist_ok=True)
    checkpoints = checkpoint.Checkpoints(workdir, config)
    state = checkpoints.restore(abstract)
    if state is None and config.get("init"):
        _, image_params = load_parent(config.init, config.init_stage, config.dtype, mesh)

        def inflate(key, image_params):
            return recipe.start(params_lib.inflate(image_params, recipe.init(key).params))

        state = jax.jit(inflate, out_shardings=layout)(init_key, image_params)
    elif state is None:
        state = jax.jit(recipe.init, out_shardings=layout)(init_key)
    start = int(state.step)
    if start >= config.num_steps:
        print(f"{workdir} has had its {config.num_steps} steps")
        return start
    if processes.is_first():
        params_lib.write_json(workdir / "config.json", checkpoint.to_json(config))

    # Data
    frames, batch_size = recipe.stage.frames, config.data.batch_size
    tokenizer = make_tokenizer(config, workdir)
    source = sources.make(config.data, frames, config.num_steps, tokenizer)
    batches = load_batches(source, config.data, mesh, start)
    held_out = sources.make({**config.data, "split": "test"}, frames, 1, tokenizer)
    examples = [held_out[i] for i in range(config.eval.num_examples)]
    test_batch = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
    batch = next(batches)

    # Steps
    put = lambda rows: sharding.shard_batch(rows, mesh, batch_size)
    step_fn = jax.jit(recipe.step, donate_argnums=0, out_shardings=(layout, None))
    step_fn = program.Program(step_fn, state, put(batch), frozen_params, key)
    preview_fn = functools.partial(preview, recipe, config.eval.num_steps)
    preview_fn = jax.jit(preview_fn, out_shardings=NamedSharding(mesh, PartitionSpec()))
    pictures = config.stage not in ("clip", "prior")

    # Loop
    with (
        contextlib.closing(batches),
        checkpoints,
        Stop() as stop,
        monitor.Monitor(workdir, config, start, step_fn.flops / peak) as watch,
    ):
        if start == 0:
            overview = parameter_overview.get_parameter_overview(
                abstract.params, include_stats=False
            )
            watch.text(0, "parameters", overview)
        metrics = None
        for step in range(start + 1, config.num_steps + 1):
            watch.profile(step)
            jax.block_until_ready(metrics)  # one step runs ahead, not many: the bar tells the truth
            state, metrics = step_fn(state, put(batch), frozen_params, key)
            watch.step(metrics, batch)
            stopped, last = stop.after(step), step == config.num_steps
            logged = step % config.log_every == 0 or stopped or last
            skipped = watch.log(step)["skipped_in_a_row"] if logged else 0
            useless = skipped >= config.max_skipped
            if step % config.save_every == 0 or stopped or last or useless:
                checkpoints.save(step, state)
            if useless:
                raise ValueError(
                    f"the gradients of {skipped:.0f} steps in a row were not finite; the "
                    f"parameters in {workdir} are those from before. Look for damaged data, or "
                    "start from here (--config.init) with a lower optimizer.learning_rate."
                )
            if stopped:  # nothing may keep it from ending
                break
            if pictures and (step % config.eval.every == 0 or last):
                with watch.pausing():
                    rows = preview_fn(state.ema_params, test_batch, frozen_params, key)
                    rows = [media.to_uint8(row) for row in rows]
                    watch.picture(step, draw(rows))
                    if recipe.stage.frames > 1:
                        watch.video(step, media.grid(np.concatenate(rows), columns=len(rows[0])))
            if not last:
                with watch.waiting():
                    batch = next(batches)
    return step
