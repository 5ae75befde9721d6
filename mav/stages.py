"""The stages of the cascade, in the order of MAV §3.

What each is conditioned on, its training loss, and its prediction while sampling, as pure functions
of parameters, inputs and keys.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from mav import clip, diffusion, layers, prior, unet

# sr_256_last, where there is one, takes the last step of sr_256 (Karlo).
STAGES = ("clip", "prior", "decoder", "interpolation", "sr_256", "sr_256_last", "sr_768")
NETWORKS: dict[str, Any] = dict(clip=clip.CLIP, prior=prior.PriorTransformer)  # or U-Nets
DTYPES = ("float32", "bfloat16")  # in which networks compute
Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A network with its diffusion process; how big its videos are.

    size: height and width that it emits, in pixels. low_size: of the video it starts from, None
    where it starts from noise alone. frames: length of the clips it learns from. inputs: sizes of
    what CLIP tells it, `embedding_features`, `text_features` and `max_tokens`.
    """

    name: str
    network: nn.Module
    process: diffusion.Process | None = None
    size: int = 64
    low_size: int | None = None
    frames: int = 1
    inputs: tuple[tuple[str, int], ...] = ()  # pairs, so that a stage can be a static argument


def build(
    config: Mapping[str, Any], dtype: str = "float32", remat: str = "none", scan: bool = False
) -> Stage:
    """The stage that a config describes by `stage`, `network`, `process` and the fields of `Stage`.

    dtype: in which the network computes, a name in DTYPES. remat: what the backward pass computes
    again, a name in layers.REMAT. scan: U-Nets loop over blocks of one shape, as in training.
    Raises ValueError for unknown names, and for a field that is needed and missing.
    """
    for what, value, known in (("dtype", dtype, DTYPES), ("remat", remat, layers.REMAT)):
        if value not in known:
            raise ValueError(f"{what}={value!r} is unknown; choose one of {', '.join(known)}.")
    if "stage" not in config:
        raise ValueError(f"the config has no stage; set it to one of {', '.join(STAGES)}.")
    name = config["stage"]
    if name not in STAGES:
        raise ValueError(f"stage={name!r} is unknown; choose one of {', '.join(STAGES)}.")
    network_class = NETWORKS.get(name, unet.SpaceTimeUNet)
    fields = dataclasses.fields(network_class)
    known = {f.name for f in fields} - {"parent", "name", "dtype", "remat", "scan"}
    needed = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    network = _require_known("network", name, config, known, needed)
    # JSON has lists where modules need tuples.
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in network.items()}
    process = None
    if name != "clip":
        needed = {"schedule", "num_timesteps"}
        known = {field.name for field in dataclasses.fields(diffusion.Process)} | needed
        settings = _require_known("process", name, config, known, needed)
        schedule = diffusion.Schedule(settings.pop("schedule"), settings.pop("num_timesteps"))
        process = diffusion.Process(schedule, **settings)
        if network_class is unet.SpaceTimeUNet:
            values |= dict(learns_variance=process.learns_variance, scan=scan)
    return Stage(
        name,
        network_class(**values, dtype=jnp.dtype(dtype), remat=remat),
        process,
        size=config.get("size", 64),
        low_size=config.get("low_size"),
        frames=config.get("frames", 1),
        inputs=tuple(sorted(config.get("inputs", {}).items())),
    )


def _require_known(
    what: str, stage: str, config: Mapping[str, Any], known: set[str], needed: set[str]
) -> dict[str, Any]:
    """A table of the config. Raises ValueError unless it has fields that are known, all needed."""
    found = config.get(what)
    if not hasattr(found, "keys"):  # a ConfigDict is no Mapping
        raise ValueError(
            f"{what} of stage {stage!r} is {found!r}; it must be a table, of at least "
            f"{', '.join(sorted(needed))}."
        )
    unknown, missing = sorted(set(found) - known), sorted(needed - set(found))
    if unknown:
        raise ValueError(
            f"{what} of stage {stage!r} has no field {', '.join(unknown)}; "
            f"it has {', '.join(sorted(known))}."
        )
    if missing:
        raise ValueError(f"{what} of stage {stage!r} lacks {', '.join(missing)}; add them.")
    return dict(found)


def init_params(stage: Stage, key: Key[Array, ""]) -> Params:
    """Fresh parameters."""
    network, inputs = stage.network, dict(stage.inputs)
    if stage.name == "clip":
        tokens = jnp.zeros((1, network.max_tokens), jnp.int32)
        if network.image_size is None:
            return network.init(key, tokens, method="encode_text")["params"]
        images = jnp.zeros((1, network.image_size, network.image_size, 3))
        return network.init(key, tokens, images)["params"]
    t = jnp.zeros(1, jnp.int32)
    embedding = jnp.zeros((1, inputs.get("embedding_features", 0)))
    tokens = inputs.get("max_tokens", 0)
    text = dict(
        text_embedding=embedding,
        text_states=jnp.zeros((1, tokens, inputs.get("text_features", 0))),
        text_mask=jnp.ones((1, tokens), bool),
    )
    if stage.name == "prior":
        return network.init(key, embedding, t, **text)["params"]
    side = network.patch * 2 ** (len(network.multipliers) - 1)
    video = jnp.zeros((1, 1, side, side, 3))
    number = jnp.ones(1)
    cond = dict(image_embedding=embedding, low_res=video, aug_level=number, fps=number)
    cond |= dict(last_x0=video, frame_skip=number, **keyframes(video, jnp.ones((1, 1))))
    return network.init(key, video, t, **cond, **text)["params"]


def param_shapes(stage: Stage) -> Any:
    """Shapes and dtypes of a stage's parameters, as a tree of `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(lambda: init_params(stage, jax.random.key(0)))


# Conditions


def embed_first_frame(
    clip_stage: Stage, clip_params: Params, video: Float[Array, "b f h w 3"]
) -> Float[Array, "b d"]:
    """CLIP embedding of the first frame, what decoder and interpolation are told (MAV §3.2)."""
    images = for_clip(clip_stage, video[:, 0])
    return clip_stage.network.apply({"params": clip_params}, images, method="encode_image")


def for_clip(clip_stage: Stage, images: Float[Array, "b h w 3"]) -> Float[Array, "b s s 3"]:
    """Images of the size that the image tower takes."""
    size = clip_stage.network.image_size
    if images.shape[1:3] == (size, size):
        return images
    return jax.image.resize(images, (len(images), size, size, 3), "cubic")


def embed_text(
    clip_stage: Stage, clip_params: Params, tokens: Int[Array, "b n"]
) -> dict[str, Array]:
    """What the prior is told: text embedding, text states, and which of them are text."""
    embedding, states, mask = clip_stage.network.apply(
        {"params": clip_params}, tokens, method="encode_text"
    )
    return dict(text_embedding=embedding, text_states=states, text_mask=mask)


def shrink(video: Float[Array, "b f h w 3"], factor: int) -> Float[Array, "b f h2 w2 3"]:
    """Averages blocks of factor x factor pixels."""
    return rearrange(video, "b f (h p) (w q) c -> b f h w p q c", p=factor, q=factor).mean((-3, -2))


def enlarge(video: Float[Array, "b f h w 3"], size: int) -> Float[Array, "b f h2 w2 3"]:
    """Bicubic resize to size x size, the low-resolution input of a super-resolution."""
    b, f = video.shape[:2]
    return jax.image.resize(video, (b, f, size, size, 3), "cubic")


MASKS = ("every", "first", "last", "ends", "one", "none")


def draw_masks(
    key: Key[Array, ""], batch: int, frames: int, mixture: Mapping[str, float], skips: tuple
) -> tuple[Float[Array, "b f"], Float[Array, "b"]]:
    """Which frames the interpolation is given (1 is known), and their frame skip (MAV §3.2.3).

    mixture: probability of each kind in MASKS: every k-th frame with k among `skips`, the first or
    last few, both ends, a single one, none. The skip is 1 for all kinds but "every".
    """
    unknown = sorted(set(mixture) - set(MASKS))
    if unknown:
        raise ValueError(f"masks={unknown} are unknown; choose among {', '.join(MASKS)}.")
    kind_key, skip_key, count_key, place_key = jax.random.split(key, 4)
    f = jnp.arange(frames)[None]
    skip = jax.random.choice(skip_key, jnp.asarray(skips), (batch, 1))
    count = jax.random.randint(count_key, (batch, 1), 1, frames // 2 + 1)
    place = jax.random.randint(place_key, (batch, 1), 0, frames)
    everywhere = jnp.ones((batch, frames), bool)
    kinds = dict(
        every=f % skip == 0,
        first=f < count,
        last=f >= frames - count,
        ends=((f == 0) | (f == frames - 1)) & everywhere,
        one=f == place,
        none=~everywhere,
    )
    weights = jnp.log(jnp.asarray([mixture.get(name, 0.0) for name in MASKS]))
    kind = jax.random.categorical(kind_key, weights, shape=(batch,))
    masks = jnp.stack([kinds[name] for name in MASKS], axis=1)
    mask = jnp.take_along_axis(masks, kind[:, None, None], axis=1)[:, 0]
    skip = jnp.where(kind == MASKS.index("every"), skip[:, 0], 1)
    return mask.astype(jnp.float32), skip.astype(jnp.float32)


def keyframes(
    video: Float[Array, "b f h w 3"], known: Float[Array, "b f"]
) -> dict[str, Float[Array, "b f h w c"]]:
    """The interpolation's 4 added channels: frames, zero where unknown, and the mask."""
    mask = jnp.broadcast_to(known[:, :, None, None, None], (*video.shape[:-1], 1))
    return dict(keyframes=video * mask, mask=mask)


# What a batch gives each diffusion stage in training: its clean x0, and the network's arguments.


def prior_example(stage, options, params, batch, key, frozen):
    """A whitened image embedding, told by its caption. Captions are dropped by the data."""
    del options, key
    clip_stage, clip_params = frozen["clip"]
    image = embed_first_frame(clip_stage, clip_params, to_float(batch["frames"]))
    x0 = stage.network.apply({"params": params}, image, method="whiten")
    return x0, embed_text(clip_stage, clip_params, batch["tokens"])


def video_example(stage, options, params, batch, key, frozen):
    """A clip, told by the embedding of its first frame (MAV §3.2): decoder and interpolation."""
    del params
    clip_stage, clip_params = frozen["clip"]
    drop_key, mask_key = jax.random.split(key)
    x0 = to_float(batch["frames"])
    b, f = x0.shape[:2]
    drop = jax.random.bernoulli(drop_key, options["cond_drop_prob"], (b,))
    cond = dict(image_embedding=embed_first_frame(clip_stage, clip_params, x0), drop_image=drop)
    if stage.network.text:
        cond |= embed_text(clip_stage, clip_params, batch["tokens"])
    if stage.network.fps:
        cond["fps"] = batch["fps"]
    if stage.network.keyframes:
        skips = tuple(options["frame_skips"])
        known, cond["frame_skip"] = draw_masks(mask_key, b, f, options["masks"], skips)
        cond |= keyframes(x0, known)
    return x0, cond


def super_resolution_example(stage, options, params, batch, key, frozen):
    """A crop, told by its low-resolution version.

    That carries noise of a random level that the network is told, so that it forgives what the
    stage before gets wrong (conditioning augmentation, Ho et al. 2021).
    """
    del params, frozen
    level_key, noise_key = jax.random.split(key)
    x0 = to_float(batch["frames"])
    low = shrink(x0, stage.size // stage.low_size)
    level = jax.random.randint(level_key, (len(x0),), 0, options["max_aug_level"] + 1)
    return x0, low_res_condition(stage, low, x0.shape[2], level, noise_key)


def low_res_condition(
    stage: Stage,
    low: Float[Array, "b f h w 3"],
    size: int,
    level: Int[Array, "b"],
    key: Key[Array, ""],
) -> dict[str, Array]:
    """What a super-resolution is told: the noised, then enlarged input, and the noise level.

    level: in timesteps, 0 adds nothing.
    """
    noisy = stage.process.diffuse(low, level, stage.process.noise(key, low.shape))
    low = jnp.where(diffusion.expand(level, low) > 0, noisy, low)
    cond = dict(low_res=enlarge(low, size))
    if stage.network.aug_level:
        cond["aug_level"] = level.astype(jnp.float32)
    return cond


EXAMPLES: dict[str, Callable] = dict(
    prior=prior_example,
    decoder=video_example,
    interpolation=video_example,
    sr_256=super_resolution_example,
    sr_256_last=super_resolution_example,
    sr_768=super_resolution_example,
)


# Training losses: the mean over a batch, and scalars to log.


def perceptual_distance(
    clip_stage: Stage,
    clip_params: Params,
    found: Float[Array, "b f h w 3"],
    wanted: Float[Array, "b f h w 3"],
) -> Float[Array, "b"]:
    """How far apart the frames of two videos are in CLIP's eyes, between 0 and 4.

    The squared distance of unit vectors: what each block of the image tower holds of each patch,
    and the embedding (after LPIPS, Zhang et al. 2018, Eq. 1).
    """

    def seen(video):
        images = for_clip(clip_stage, layers.fold_frames(video))
        embedding, states = clip_stage.network.apply(
            {"params": clip_params},
            images,
            method="encode_image",
            capture_intermediates=lambda module, _: isinstance(module, layers.TransformerBlock),
            mutable="intermediates",
        )
        # Of the last block only the class token is trained, and that is the embedding.
        blocks = [
            states["intermediates"]["image"][f"block_{i}"]["__call__"][0][:, 1:]
            for i in range(clip_stage.network.image_depth - 1)
        ]
        unit = lambda y: y / jnp.linalg.norm(y, axis=-1, keepdims=True)
        return [unit(y) for y in (*blocks, embedding[:, None])]

    pairs = zip(seen(found), seen(wanted), strict=True)
    distances = [jnp.mean(jnp.sum((a - b) ** 2, axis=-1), axis=1) for a, b in pairs]
    return jnp.mean(sum(distances[1:], distances[0]).reshape(len(found), -1), axis=1) / len(
        distances
    )


def clip_loss(stage, options, params, batch, key, frozen):
    """Symmetric cross-entropy over all pairs of a batch (CLIP §2.3)."""
    del options, key, frozen
    frames = to_float(batch["frames"])
    logits = stage.network.apply({"params": params}, batch["tokens"], frames[:, 0])
    right = jnp.arange(len(logits))
    picks = lambda logits: -jnp.mean(nn.log_softmax(logits)[right, right])
    accuracy = jnp.mean(jnp.argmax(logits, axis=1) == right)
    return (picks(logits) + picks(logits.T)) / 2, {"accuracy": accuracy}


def denoising_loss(stage, options, params, batch, key, frozen):
    """The diffusion loss of every other stage (MAV §3.4; x0 for the prior, unCLIP §2.2)."""
    example_key, t_key, eps_key, dropout_key, last_key = jax.random.split(key, 5)
    x0, cond = EXAMPLES[stage.name](stage, options, params, batch, example_key, frozen)
    t = draw_timesteps(stage, t_key, len(x0), options.get("logit_normal"))
    eps = stage.process.noise(eps_key, x0.shape)
    x_t = stage.process.diffuse(x0, t, eps)
    if takes_last_x0(stage):
        cond["last_x0"] = draw_last_x0(stage, params, x_t, t, cond, last_key)
    output = stage.network.apply(
        {"params": params}, x_t, t, **cond, train=True, rngs={"dropout": dropout_key}
    )
    loss, parts = stage.process.loss(output, x0, t, eps)
    if options.get("perceptual"):
        predicted = stage.process.to_x0(stage.process.split(output)[0], x_t, t)
        parts["perceptual"] = perceptual_distance(*frozen["clip"], predicted, x0)
        loss += options["perceptual"] * parts["perceptual"]
    metrics = {name: jnp.mean(part) for name, part in parts.items()}
    quarter = t * 4 // stage.process.schedule.num_timesteps
    for i in range(4):  # where on the schedule the error lies; 0 is nearly clean
        here = quarter == i
        metrics[f"mse_t{i}"] = jnp.sum(parts["mse"] * here) / jnp.maximum(jnp.sum(here), 1)
    return jnp.mean(loss), metrics


def loss(stage: Stage, options, params, batch, key, frozen) -> tuple[Array, dict[str, Array]]:
    """Loss of a stage on a batch.

    options: a config's `loss`. batch: frames uint8 [b, f, h, w, 3], and tokens [b, n] or fps [b];
    stills uint8 [b, k, h, w, 3] go beside clips as videos of one frame, and count as much as a
    frame of a clip (VDM, Ho et al. 2022, §3). frozen: {"clip": (stage, params)} for those that are
    told embeddings.
    """
    function = clip_loss if stage.name == "clip" else denoising_loss
    if "stills" not in batch:
        return function(stage, options, params, batch, key, frozen)
    keys = jax.random.split(key)
    clips, metrics = function(stage, options, params, batch, keys[0], frozen)
    f, k = batch["frames"].shape[1], batch["stills"].shape[1]
    # The empty caption goes with them, and the fps, as one frame is sampled with some as well.
    told = [name for name in ("tokens", "fps") if name in batch]
    stills = {name: jnp.repeat(batch[name], k, axis=0) for name in told}
    stills["frames"] = rearrange(batch["stills"], "b k h w c -> (b k) 1 h w c")
    images, _ = function(stage, options, params, stills, keys[1], frozen)
    return (f * clips + k * images) / (f + k), metrics | dict(loss_clips=clips, loss_stills=images)


def takes_last_x0(stage: Stage) -> bool:
    """Whether the network is told what the sampler's last step predicted."""
    return getattr(stage.network, "self_condition", False)


def draw_last_x0(stage, params, x_t, t, cond, key) -> Array:
    """In every other step what the network predicts of x_t alone, else zeros (Chen et al. 2022).

    The prediction stands for that of the sampler's step before. No gradient passes through it.
    """
    nothing = jnp.zeros_like(x_t)

    def predicted():
        output = predictor(stage, jax.lax.stop_gradient(params), cond)(x_t, t, nothing)
        return stage.process.bound(stage.process.to_x0(stage.process.split(output)[0], x_t, t))

    return jax.lax.cond(jax.random.bernoulli(key), predicted, lambda: nothing)


def draw_timesteps(
    stage: Stage,
    key: Key[Array, ""],
    batch: int,
    logit_normal: tuple[float, float] | None = None,
) -> Int[Array, "b"]:
    """Timesteps, one from each of `batch` equally probable strata, which steadies the loss.

    logit_normal: location and scale of the normal distribution of logit(t / T) (Esser et al. 2024,
    §3.1), which spends the batch where shapes are decided; None draws them evenly.
    """
    offset_key, order_key = jax.random.split(key)
    total = stage.process.schedule.num_timesteps
    strata = (jnp.arange(batch) + jax.random.uniform(offset_key, (batch,))) / batch
    if logit_normal is not None:
        location, scale = logit_normal
        strata = nn.sigmoid(location + scale * jax.scipy.special.ndtri(strata))
    t = jnp.floor(strata * total).astype(jnp.int32)
    t = jnp.minimum(t, total - 1)  # float32 may round the last stratum up to its end
    return jax.random.permutation(order_key, t)


def to_float(frames: Array) -> Float[Array, "..."]:
    """uint8 pixels -> float32 in [-1, 1]."""
    return frames.astype(jnp.float32) / 127.5 - 1


# Sampling


def predictor(
    stage: Stage,
    params: Params,
    cond: Mapping[str, Array],
    null: Mapping[str, Array] | None = None,
    guidance_scale: float = 1.0,
    guidance_rescale: float = 0.0,
) -> Callable[[Array, Int[Array, "b"], Array], Array]:
    """The network as a sampler needs it: (x_t, timesteps, last x0) -> output, with guidance.

    cond: keyword arguments of the network, batched. null: those that differ where the condition is
    dropped. Learned variances come from the conditional half (unCLIP).
    """
    told = lambda x0: dict(last_x0=x0) if takes_last_x0(stage) else {}
    apply = lambda x, t, x0, cond: stage.network.apply({"params": params}, x, t, **cond, **told(x0))
    if guidance_scale == 1.0 or null is None:
        return lambda x, t, x0: apply(x, t, x0, cond)
    twice = lambda a, b: jnp.concatenate([a, b])
    both = {name: twice(value, null.get(name, value)) for name, value in cond.items()}

    def predict(x, t, x0):
        output = apply(twice(x, x), twice(t, t), twice(x0, x0), both)
        cond_half, null_half = jnp.split(output, 2)
        prediction, variance = stage.process.split(cond_half)
        uncond = stage.process.split(null_half)[0]
        guided = diffusion.guide(prediction, uncond, guidance_scale, guidance_rescale)
        return guided if variance is None else jnp.concatenate([guided, variance], axis=-1)

    return predict
