"""A cascade of all six networks in miniature, with random parameters, for tests of the whole."""

import functools
import importlib
import pathlib

import jax
import numpy as np

import noise
from mav import folders, stages, tokenizer

TEXTS = ["a red ball over a green meadow", "snowy hills with a blue bird"]
DIFFUSION = dict(schedule="cosine", num_timesteps=1000, prediction="x0")
INPUTS = dict(embedding_features=8, text_features=8, max_tokens=12)
UNET = dict(width=8, multipliers=[1], depth=1, groups=4, head_dim=4, patch=1)
VIDEO = dict(
    UNET,
    image_tokens=2,
    context_features=8,
    attention_levels=[0],
    temporal=True,
    fps=True,
    self_condition=True,
)
BPE = tokenizer.train(TEXTS, 600)

CONFIGS = dict(
    clip=dict(
        stage="clip",
        network=dict(
            embedding_features=8,
            vocabulary_size=BPE.get_vocab_size(),
            max_tokens=12,
            end_token=BPE.get_vocab_size() - 1,
            text_width=8,
            text_depth=1,
            image_size=8,
            patch=4,
            image_width=8,
            image_depth=1,
            text_head_dim=4,
            image_head_dim=4,
        ),
    ),
    prior=dict(
        stage="prior",
        inputs=INPUTS,
        network=dict(embedding_features=8, width=8, depth=1, head_dim=4, max_tokens=12),
        process=dict(DIFFUSION, clip=5.0),
    ),
    decoder=dict(
        stage="decoder", size=8, frames=16, inputs=INPUTS, network=VIDEO, process=DIFFUSION
    ),
    interpolation=dict(
        stage="interpolation",
        size=8,
        frames=16,
        inputs=INPUTS,
        network=dict(VIDEO, keyframes=True),
        process=DIFFUSION,
    ),
    sr_256=dict(
        stage="sr_256",
        size=16,
        low_size=8,
        frames=16,
        network=dict(UNET, low_res=True, aug_level=True, temporal=True, patch=2),
        process=DIFFUSION,
    ),
    sr_768=dict(
        stage="sr_768",
        size=32,
        low_size=16,
        network=dict(UNET, low_res=True, aug_level=True, patch=2),
        process=dict(DIFFUSION, shared_noise=1.0),
    ),
)
SETTINGS = dict(
    steps=dict(prior=3, decoder=3, interpolation=2, sr_256=2, sr_768=2),
    sampler=dict(prior="ddpm", decoder="ddim", interpolation="ddim", sr_256="ddim", sr_768="ddpm"),
    spacing=dict.fromkeys(CONFIGS, "trailing"),
    guidance_scale=dict(decoder=2.0),
    aug_level=dict(sr_256=10, sr_768=10),
    candidates=dict(prior=2),
    size=32,
    chunk=5,
)


def params(name):
    """Noise for all parameters of a stage, since fresh networks answer zero."""
    stage = stages.build(CONFIGS[name])
    shapes = jax.eval_shape(functools.partial(stages.init_params, stage), jax.random.key(0))
    return noise.params(shapes, seed=list(CONFIGS).index(name))


def write(folder):
    """Writes the miniature cascade into a folder."""
    for name, config in CONFIGS.items():
        folders.save_stage(folder, name, config, params(name), np.float32)
    tokenizer.Tokenizer(BPE, 12, 0).save(folder / "tokenizer.json")
    words = sorted({word for text in TEXTS for word in tokenizer.words(text)})
    provenance = dict(words=words, shows=dict(objects=["ball"]))
    folders.write_index(folder, "tiny", SETTINGS, provenance)


def train_arguments(folder, stage="decoder"):
    """Of `mav train`, for decoder or sr_768 in miniature; CLIP is of the cascade in `folder`."""
    small = CONFIGS[stage]
    network = {k: tuple(v) if isinstance(v, list) else v for k, v in small["network"].items()}
    values = {f"network.{k}": v for k, v in network.items()}
    size = small["size"]
    values |= {"size": size, "data.size": size, "data.crop": size}
    values |= {"data.batch_size": 4, "data.prefetch": 2}
    if stage == "decoder":
        values |= {"inputs.embedding_features": INPUTS["embedding_features"], "data.stills": 0}
    else:
        values |= {"low_size": small["low_size"]}
        del values["network.head_dim"]  # it has no attention
    values |= {"eval.every": 100, "eval.num_examples": 2, "eval.num_steps": 1, "log_every": 1}
    values |= {"optimizer.name": "adamw", "optimizer.warmup_steps": 1}
    values |= {"num_steps": 4, "save_every": 2, "clip": folder}
    config = pathlib.Path(__file__).parent.parent / "configs" / f"{stage}.py"
    return ["--config", f"{config}:cutout"] + [f"--config.{k}={v}" for k, v in values.items()]


def small(stage, phase, parents, num_steps=4):
    """A shipped config, shrunk to seconds; CLIP is of the cascade in `parents`."""
    config = importlib.import_module(f"configs.{stage}").get_config(f"cutout,{phase}")
    config.update_from_flattened_dict(
        {f"network.{k}": v for k, v in _trained_network(stage).items()}
    )
    for name in ("size", "low_size", "frames"):
        if name in config and stage in CONFIGS and name in CONFIGS[stage]:
            config[name] = CONFIGS[stage][name] if phase == "video" or name != "frames" else 1
    if "inputs" in config:
        config.inputs.update(INPUTS)
    size = config.get("size", 8)
    config.data.update(dict(batch_size=2, size=size, crop=size, prefetch=2))
    if stage == "clip":
        config.data.tokenizer_captions = 200
    else:
        config.clip = str(parents)
    config.eval.update(dict(every=100, num_examples=1, num_steps=1))
    if config.data.get("stills"):
        config.data.stills = 1
    config.optimizer.update(name="adamw", warmup_steps=1)  # Muon has its own test
    config.num_steps = num_steps
    config.log_every = 2
    config.mesh.data = 1
    return config


def _trained_network(stage):
    values = dict(CONFIGS[stage]["network"])
    for name in ("temporal", "fps", "keyframes"):
        values.pop(name, None)
    if stage == "clip":  # the captions give the bytes, 2 special tokens and merges
        values |= dict(vocabulary_size=330, end_token=329)
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
