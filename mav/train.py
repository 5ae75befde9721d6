"""Training of one stage: `mav train --config configs/decoder.py:cutout,video --workdir runs/x`."""

import functools
import json
import pathlib
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metric_writers, parameter_overview
from flax import struct
from ml_collections import ConfigDict
from tqdm.auto import tqdm

from mav import cascade, checkpoint, media, samplers, sharding, stages
from mav import params as params_lib
from mav import tokenizer as tokenizer_lib
from mav.data import sources


@struct.dataclass
class TrainState:
    """All that a step changes."""

    step: jax.Array
    params: stages.Params
    ema_params: stages.Params
    opt_state: optax.OptState


def make_optimizer(config: Mapping[str, Any], num_steps: int) -> optax.GradientTransformation:
    """AdamW behind a gradient clip; `trainable` is "all" or "temporal".

    The learning rate rises over `warmup_steps`, and falls to zero over the share `cooldown` of all
    steps, the last ones.
    """
    peak, cooldown = config["learning_rate"], round(config["cooldown"] * num_steps)
    rise = optax.linear_schedule(0.0, peak, config["warmup_steps"])
    fall = optax.linear_schedule(peak, 0.0, cooldown)
    rate = optax.join_schedules([rise, fall], [num_steps - cooldown]) if cooldown else rise
    adam = optax.chain(
        optax.clip_by_global_norm(config["clip_norm"]),
        optax.adamw(
            rate,
            b1=config["b1"],
            b2=config["b2"],
            eps=config["eps"],
            weight_decay=config["weight_decay"],
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )
    if config["trainable"] == "all":
        return adam
    if config["trainable"] != "temporal":
        raise ValueError(f"trainable={config['trainable']!r} must be 'all' or 'temporal'.")

    def label(path, leaf):
        del leaf
        temporal = params_lib.is_temporal(sharding.path_name(path))
        return "train" if temporal else "freeze"

    labels = functools.partial(jax.tree_util.tree_map_with_path, label)
    return optax.partition({"train": adam, "freeze": optax.set_to_zero()}, labels)


def train_step(stage, options, optimizer, ema_decay, state, batch, frozen_params, frozen, key):
    """One optimiser step. Returns the new state and scalars."""
    frozen = {name: (frozen[name], params) for name, params in frozen_params.items()}
    key = jax.random.fold_in(key, state.step)
    loss_fn = lambda params: stages.loss(stage, options, params, batch, key, frozen)
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # The average forgets its start faster than its rate alone would let it.
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    ema_params = optax.incremental_update(params, state.ema_params, 1 - decay)
    metrics |= dict(loss=loss, grad_norm=optax.tree.norm(grads))
    return TrainState(state.step + 1, params, ema_params, opt_state), metrics


def preview(stage, options, num_steps, params, batch, key, frozen):
    """Rows of float [b, f, h, w, 3] in [-1, 1]: what is given (if any), real, and sampled."""
    example_key, sample_key = jax.random.split(key)
    x0, cond = stages.EXAMPLES[stage.name](stage, options, params, batch, example_key, frozen)
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


def draw(rows: Sequence[jax.Array]) -> np.ndarray:
    """A picture of `preview`: images side by side; videos one below another, eight frames each."""
    rows = [media.to_uint8(row) for row in rows]
    if rows[0].shape[1] == 1:
        return media.grid(np.concatenate(rows)[:, 0], columns=len(rows[0]))
    return media.contact_sheet([row[i] for i in range(len(rows[0])) for row in rows], columns=8)


def load_parent(path: str, name: str, dtype: str = "float32") -> tuple[stages.Stage, stages.Params]:
    """A stage and its parameters, from a run's folder or out of a cascade (a folder or a name)."""
    if (pathlib.Path(path) / "checkpoints").is_dir():
        stage, params, _ = checkpoint.load_ema(path, dtype)
        return stage, params
    loaded = cascade.load(path, dtype)
    return loaded.stages[name], loaded.params[name]


def needs_clip(stage: stages.Stage) -> bool:
    """Whether a stage is conditioned on embeddings."""
    return stage.name == "prior" or getattr(stage.network, "image_tokens", 0) > 0


def make_tokenizer(config: ConfigDict, workdir: pathlib.Path) -> tokenizer_lib.Tokenizer | None:
    """The tokenizer, where the stage reads text: CLIP's run learns it, all others take CLIP's."""
    if config.stage not in ("clip", "prior") and not config.network.get("text", False):
        return None
    if config.stage != "clip":
        path = pathlib.Path(cascade.resolve(config.clip)) / "tokenizer.json"
        return tokenizer_lib.Tokenizer.load(path, config.inputs.max_tokens)
    path, data = workdir / "tokenizer.json", config.data
    if not path.exists():
        images = sources.open_source("images", data.images, data.split)
        captions = [images.caption(i) for i in range(data.tokenizer_captions)]
        words = sorted({word for text in captions for word in tokenizer_lib.words(text)})
        params_lib.write_json(workdir / "words.json", dict(words=words))
        bpe = tokenizer_lib.train(captions, config.network.vocabulary_size)
        tokenizer_lib.Tokenizer(bpe, config.network.max_tokens, 0).save(path)
    result = tokenizer_lib.Tokenizer.load(path, config.network.max_tokens)
    wanted = (config.network.vocabulary_size, config.network.end_token)
    if (result.vocabulary_size, result.end_token) != wanted:
        raise ValueError(
            f"the tokenizer has {result.vocabulary_size} tokens and ends with {result.end_token}; "
            f"set network.vocabulary_size and network.end_token, now {wanted}, to these."
        )
    return result


def run(config: ConfigDict, workdir: str | pathlib.Path) -> None:
    """Trains until `config.num_steps`, from the newest checkpoint in workdir if there is one."""
    workdir = pathlib.Path(workdir)
    (workdir / "samples").mkdir(parents=True, exist_ok=True)
    options = config.loss.to_dict()

    # Mesh
    mesh = sharding.make_mesh(config.mesh)

    # Model
    stage = stages.build(config, config.dtype)
    if needs_clip(stage) and not config.clip:
        raise ValueError(
            f"{stage.name} is told what CLIP sees; name CLIP's run or a cascade by --config.clip."
        )
    parents = {"clip": load_parent(config.clip, "clip", config.dtype)} if config.get("clip") else {}
    frozen = {name: parent_stage for name, (parent_stage, _) in parents.items()}
    frozen_params = {name: params for name, (_, params) in parents.items()}

    # Data
    tokenizer = make_tokenizer(config, workdir)
    source = sources.make(config.data, stage.frames, config.num_steps, tokenizer)
    reading = grain.ReadOptions(config.data.threads, config.data.prefetch)
    dataset = grain.MapDataset.source(source).to_iter_dataset(reading)
    batches = iter(dataset.batch(config.data.batch_size, drop_remainder=True))
    held_out = sources.make({**config.data, "split": "test"}, stage.frames, 1, tokenizer)
    examples = [held_out[i] for i in range(config.eval.num_examples)]
    test_batch = {k: np.stack([e[k] for e in examples]) for k in examples[0]}

    # State, born sharded
    optimizer = make_optimizer(config.optimizer, config.num_steps)

    def init_state(init_key):
        params = stages.init_params(stage, init_key)
        return TrainState(jnp.zeros((), jnp.int32), params, params, optimizer.init(params))

    init_key, key = jax.random.split(jax.random.key(config.seed))
    shapes = jax.eval_shape(init_state, init_key)
    layout = sharding.shard_like_parameters(shapes, mesh)
    checkpoints = checkpoint.Checkpoints(workdir)
    abstract = jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, layout
    )
    restored = checkpoints.restore(abstract)
    if restored is not None:
        state, position = restored
        batches.set_state(position["batches"])
        if int(state.step) >= config.num_steps:
            print(f"{workdir} has had its {config.num_steps} steps")
            checkpoints.close()
            return
    else:
        state = jax.jit(init_state, out_shardings=layout)(init_key)
        if config.get("init"):
            _, image_params = load_parent(config.init, config.init_stage)
            params = params_lib.inflate(image_params, state.params)
            state = state.replace(params=params, ema_params=jax.tree.map(jnp.copy, params))
            state = jax.device_put(state, layout)
        params_lib.write_json(workdir / "config.json", checkpoint.to_json(config))

    # Steps
    step_fn = functools.partial(
        train_step, stage, options, optimizer, config.optimizer.ema_decay, frozen=frozen, key=key
    )
    step_fn = jax.jit(step_fn, donate_argnums=0, out_shardings=(layout, None))

    @jax.jit
    def preview_fn(params, batch, frozen_params):
        together = {name: (frozen[name], p) for name, p in frozen_params.items()}
        return preview(stage, options, config.eval.num_steps, params, batch, key, together)

    # Loop
    writer = metric_writers.create_default_writer(str(workdir), asynchronous=False)
    start = int(state.step)
    if start == 0:
        overview = parameter_overview.get_parameter_overview(shapes.params, include_stats=False)
        writer.write_texts(0, {"parameters": overview})
    pictures = stage.name not in ("clip", "prior")
    stopped = []
    usual = signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    bar = tqdm(total=config.num_steps, initial=start, desc=f"train {stage.name}", unit="step")
    since, clock, metrics = start, time.monotonic(), None
    for step in range(start + 1, config.num_steps + 1):
        batch = sharding.shard_batch(next(batches), mesh)
        jax.block_until_ready(metrics)  # one step runs ahead, not many: the bar tells the truth
        state, metrics = step_fn(state, batch, frozen_params)
        bar.update()
        last = step == config.num_steps or bool(stopped)
        if step % config.log_every == 0 or last:
            scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
            seconds = time.monotonic() - clock
            scalars["steps_per_second"] = (step - since) / seconds
            scalars["examples_per_second"] = (step - since) * config.data.batch_size / seconds
            since, clock = step, time.monotonic()
            writer.write_scalars(step, scalars)
            with open(workdir / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(dict(step=step, **scalars)) + "\n")
            bar.set_postfix(loss=f"{scalars['loss']:.4f}")
        if pictures and (step % config.eval.every == 0 or last):
            picture = draw(preview_fn(state.ema_params, test_batch, frozen_params))
            media.write_image(workdir / "samples" / f"{step:07d}.png", picture)
            writer.write_images(step, {"samples": picture[None]})
            since, clock = step, time.monotonic()
        if step % config.save_every == 0 or last:
            checkpoints.save(state, {"batches": batches.get_state()})
        if last:
            break
    bar.close()
    writer.close()
    checkpoints.close()
    signal.signal(signal.SIGTERM, usual)
