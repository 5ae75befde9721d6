"""What published networks see in videos: the numbers that FVD, FID, IS and CLIPSIM are made of.

    extractor = features.load("i3d", "i3d.safetensors")
    logits = extractor(videos)["logits"]

mav ships none of their weights; `mav convert` makes its files of the released ones.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from einops import rearrange
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from mav import params as params_lib
from mav import sharding, stages, tokenizer
from mav.convert import torch_layout, unclip
from mav.evaluate import c3d, i3d, inception, preprocess

# Files whose checksums are known, by what `mav convert` reads: network -> sha256 -> name. Whether
# others, as all of C3D and CLIP, are the published ones mav cannot tell.
PUBLISHED = dict(
    inception={
        # Of pytorch-fid (pt_...) and of torch-fidelity (weights_...), one file.
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": (
            "inception-2015-12-05-6726825d.pth"
        ),
    },
    i3d={
        "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2": (
            "i3d_torchscript.pt of StyleGAN-V"
        ),
    },
    c3d={},
    clip={},
)


class Kind(NamedTuple):
    """How a network is used."""

    network: nn.Module
    preprocess: Callable
    preprocessing: str
    by_frame: bool  # whether it looks at images
    example: tuple[int, ...]  # shape of an input of the network
    batch: int  # examples per device and call, on accelerators


_TF1 = "TensorFlow 1 bilinear (no half-pixel centres, corners not aligned) squashed to {0}x{0}"
KINDS = dict(
    i3d=Kind(
        i3d.I3D(),
        preprocess.i3d,
        f"{_TF1.format(i3d.SIZE)}, RGB, 2x/255-1, batch norm epsilon {i3d.EPSILON:g}, "
        "SAME padding, logits averaged over time",
        False,
        (i3d.MIN_FRAMES, i3d.SIZE, i3d.SIZE, 3),
        8,
    ),
    c3d=Kind(
        c3d.C3D(),
        preprocess.c3d,
        f"Chainer bilinear (corners aligned) squashed to {c3d.SIZE}x{c3d.SIZE}, BGR, 0..255 minus "
        f"the mean video, {c3d.FRAMES} frames",
        False,
        (c3d.FRAMES, c3d.SIZE, c3d.SIZE, 3),
        8,
    ),
    inception=Kind(
        inception.Inception(),
        preprocess.inception,
        f"{_TF1.format(inception.SIZE)}, RGB, (x-128)/128, batch norm epsilon "
        f"{inception.EPSILON:g}, average pools without padding",
        True,
        (inception.SIZE, inception.SIZE, 3),
        32,
    ),
)
CLIP_BATCH, CLIP_BATCH_CPU = 32, 8  # as Kind.batch; one image of 50 tokens is little to a CPU


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A network with its weights, which sees videos as they lie in files."""

    name: str  # "i3d", "inception", "c3d" or "clip"
    network: nn.Module
    params: params_lib.Params
    preprocessing: str  # all besides the weights that its numbers depend on, in one line
    checksum: str  # of its file of weights; of clip, of all files that make it
    source: str | None = None  # sha256 of what `mav convert` read
    mesh: Mesh | None = None  # whose devices share the work
    words: tokenizer.Tokenizer | None = None  # of clip

    @property
    def published(self) -> str | None:
        """The name of the published file that it is made of; None if mav knows no such file."""
        return PUBLISHED[self.name].get(self.source)

    def __call__(
        self, videos: UInt8[np.ndarray, "b f h w 3"]
    ) -> dict[str, Float[np.ndarray, "b ..."]]:
        """Features of videos of any size.

        i3d: logits [b, 400], of 9 frames or more. c3d: logits [b, 101], of 16 frames.
        inception: pool [b, f, 2048] and logits [b, f, 1008]. clip: embedding [b, f, d], not
        normalised. Raises ValueError for other videos.
        """
        self.check(videos)
        f = videos.shape[1]
        by_frame = self.name not in KINDS or KINDS[self.name].by_frame
        rows = rearrange(videos, "b f h w c -> (b f) h w c") if by_frame else videos
        found = self._in_batches(functools.partial(_look, self.name, self.network), rows)
        if by_frame:
            found = {k: rearrange(v, "(b f) c -> b f c", f=f) for k, v in found.items()}
        return found

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Embeddings of texts, not normalised. Of clip alone; it cuts what is too long."""
        if self.words is None:
            raise ValueError(f"{self.name} reads no texts, or its folder has no tokenizer.")
        return self._in_batches(functools.partial(_read, self.network), self.words(texts))["text"]

    def check(self, videos: UInt8[np.ndarray, "b f h w 3"]) -> None:
        """Raises ValueError unless the network can see these videos."""
        shape, dtype = list(videos.shape), videos.dtype
        if len(shape) != 5 or shape[-1] != 3 or dtype != np.uint8 or 0 in shape:
            raise ValueError(
                f"videos are {shape} of {dtype}; {self.name} wants uint8 [b, f, h, w, 3], "
                "at least one."
            )
        if self.name == "i3d" and shape[1] < i3d.MIN_FRAMES:
            raise ValueError(f"frames={shape[1]}; i3d wants at least {i3d.MIN_FRAMES}.")
        if self.name == "c3d" and shape[1] != c3d.FRAMES:
            raise ValueError(f"frames={shape[1]}; c3d was trained for {c3d.FRAMES}, give as many.")

    def _in_batches(self, function: Callable, rows: np.ndarray) -> dict[str, np.ndarray]:
        """All rows by one compiled program; the last batch is filled up, and cut again."""
        size = self._batch_size()
        place = None if self.mesh is None else sharding.one_by_one(self.mesh)
        found = []
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            ends = [(0, size - len(batch))] + [(0, 0)] * (batch.ndim - 1)
            found.append(function(self.params, jax.device_put(np.pad(batch, ends), place)))
        found = jax.device_get(found)
        return {k: np.concatenate([part[k] for part in found])[: len(rows)] for k in found[0]}

    def _batch_size(self) -> int:
        devices = 1 if self.mesh is None else self.mesh.size
        cpu = jax.default_backend() == "cpu"
        if self.name not in KINDS:
            return devices * (CLIP_BATCH_CPU if cpu else CLIP_BATCH)
        # One keeps a CPU busy, and none is computed in vain.
        return devices * (1 if cpu else KINDS[self.name].batch)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _look(name, network, params, frames):
    with jax.default_matmul_precision("highest"):
        if name == "clip":
            x = preprocess.clip(frames, network.image_size)
            return dict(embedding=network.apply({"params": params}, x, method="encode_image"))
        found = network.apply({"params": params}, KINDS[name].preprocess(frames))
    if name == "inception":
        return dict(pool=found[0], logits=found[1])
    return dict(logits=found)


@functools.partial(jax.jit, static_argnums=0)
def _read(network, params, tokens):
    with jax.default_matmul_precision("highest"):
        embedding, _, _ = network.apply({"params": params}, tokens, method="encode_text")
    return dict(text=embedding)


def load(name: str, path: str | os.PathLike, mesh: Mesh | None = None) -> Extractor:
    """An extractor of a file that `mav convert` made.

    path: for clip, a folder as transformers saves it, or the clip of a cascade folder.
    mesh: of devices that share the work, each with all weights.
    Raises ValueError if the file is missing, damaged or of another network.
    """
    if name not in (*KINDS, "clip"):
        raise ValueError(f"extractor={name!r} is unknown; choose {', '.join(KINDS)} or clip.")
    path = pathlib.Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist; make it with `mav convert {name}`.")
    extractor = _load_clip(path) if name == "clip" else _load_converted(name, path)
    params = extractor.params
    params = jax.device_put(params, None if mesh is None else sharding.copied(mesh))
    return dataclasses.replace(extractor, params=params, mesh=mesh)


def param_shapes(name: str) -> params_lib.Params:
    """Shapes of a network's parameters."""
    kind = KINDS[name]
    x = jax.ShapeDtypeStruct((1, *kind.example), jnp.float32)
    return jax.eval_shape(kind.network.init, jax.random.key(0), x)["params"]


def _load_converted(name: str, path: pathlib.Path) -> Extractor:
    params = params_lib.load(path, param_shapes(name))
    with safetensors.safe_open(path, framework="numpy") as file:
        source = (file.metadata() or {}).get("source_sha256")
    kind = KINDS[name]
    checksum = params_lib.checksum(path)
    return Extractor(name, kind.network, params, kind.preprocessing, checksum, source)


def _load_clip(path: pathlib.Path) -> Extractor:
    """Both towers, of transformers' folder or of a cascade's."""
    if params_lib.read_json(path / "config.json").get("stage") == "clip":
        stage = stages.build(params_lib.read_json(path / "config.json"))
        params = params_lib.load(path / "params.safetensors", stages.param_shapes(stage))
        words = tokenizer.Tokenizer.load(path.parent / "tokenizer.json", stage.network.max_tokens)
        files = [path / "config.json", path / "params.safetensors", path.parent / "tokenizer.json"]
    else:
        stage, params, words = _read_clip(path)
        # Byte pairs and activation change features as much as weights do.
        suffixes = (".safetensors", ".json", ".txt")
        files = sorted(file for file in path.iterdir() if file.suffix in suffixes)
    network = stage.network.clone(normalized=False)
    if network.image_size is None:
        raise ValueError(f"{path} has no image tower; clip needs both.")
    size, numbers = network.image_size, lambda x: " ".join(f"{n:g}" for n in x)
    preprocessing = (
        f"Pillow bicubic of the shorter side to {size}, the square in the middle, RGB in 0..1, "
        f"mean {numbers(network.image_mean)}, deviation {numbers(network.image_std)}; patches of "
        f"{network.patch}, {network.image_depth} blocks of {network.image_width} features, "
        f"{network.activation}"
    )
    checksum = params_lib.checksum(*files)
    return Extractor("clip", network, params, preprocessing, checksum, words=words)


def _read_clip(path: pathlib.Path):
    """Stage, parameters and tokenizer of a folder as transformers saves it."""
    text = torch_layout.Component(path, ("text_model.", "text_projection."))
    if "text_config" not in text.config:
        raise ValueError(f"{path} is no whole CLIP; its config.json has no text_config.")
    text.config = dict(text["text_config"], projection_dim=text["projection_dim"])
    bpe = tokenizer.read_released(path)
    source = unclip.clip_stage(text, unclip.find_image_tower(path, path), bpe)
    stage = stages.build(source.config)
    shapes = params_lib.flatten(stages.param_shapes(stage))
    read = {name: leaf.shape for name, leaf in shapes.items() if name not in source.constants}
    torch_layout.check(source.sources, read)
    flat = {name: torch_layout.read(source.sources, name).astype(np.float32) for name in read}
    words = tokenizer.Tokenizer(bpe, stage.network.max_tokens, padding=0)
    return stage, params_lib.unflatten(flat | source.constants), words
