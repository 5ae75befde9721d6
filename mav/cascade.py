"""The cascade: five networks composed, text to video (MAV Eq. 1)."""

import dataclasses
import functools
import math
import numbers
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8

from mav import (
    bars,
    clip,
    edits,
    folders,
    media,
    program,
    samplers,
    sharding,
    stages,
    tokenizer,
    windows,
)
from mav import params as params_lib
from mav.settings import SAMPLED, Settings, network_of

WINDOW, FADE = 76, 8  # frames that sr_256 takes at once, and those over which two windows fade
SEEDS = 2**32  # that differ
CONTINUED = 2**16  # folded into a key, for what follows the decoder's clip


Progress = Callable[[str, int, int], None]
Mixed = tuple[str | UInt8[np.ndarray, "h w 3"], float]  # a prompt or an image, and its share
# Of a network: a sample of this shape, with these conditions, and those without for guidance.
Asked = tuple[tuple[int, ...], dict[str, Array], dict[str, Array]]


class Bars:
    """The default progress report: one bar per stage, with the time left.

    As a context it leaves no bar open behind, whatever ends it.
    """

    def __init__(self):
        self.bars = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for bar in self.bars.values():
            bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self.bars:
            self.bars[stage] = bars.bar(total=total, desc=stage, unit="call")
        bar = self.bars[stage]
        bar.update(done - bar.n)
        if done == total:
            bar.close()
            del self.bars[stage]


def silent(stage: str, done: int, total: int) -> None:
    """A progress report for tests and servers: nothing."""


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def advance(stage, guidance_scale, guidance_rescale, keeps, state, rows, params, cond, null):
    """One compiled piece of a sampling loop; every stage compiles it once."""
    project = lambda x0: x0
    if keeps:  # the frames that the interpolation was given stay as they are
        project = lambda x0: jnp.where(cond["mask"] > 0, cond["keyframes"], x0)
    predict = stages.predictor(stage, params, cond, null, guidance_scale, guidance_rescale)
    return samplers.advance(predict, stage.process, state, rows, project)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _start(process, key, shape, mesh):
    """Pure noise, on a mesh in pieces from the beginning."""
    *arrays, key = samplers.start(process, key, shape)
    if mesh is not None:
        places = sharding.shard_like_examples(arrays, mesh)
        arrays = jax.lax.with_sharding_constraint(arrays, places)
    return samplers.State(*arrays, key)


_embed_text = jax.jit(stages.embed_text, static_argnums=0)
_embed_first_frame = jax.jit(stages.embed_first_frame, static_argnums=0)
_low_res_condition = jax.jit(stages.low_res_condition, static_argnums=(0, 2))


@dataclasses.dataclass(frozen=True)
class Cascade:
    """Stages with their parameters. Methods are pure: same arguments, same pixels.

    mesh: devices over which videos are divided. preview: is called after each step of a sampler
    with the stage's name and the clean sample that it now predicts.
    """

    name: str
    stages: Mapping[str, stages.Stage]
    params: Mapping[str, stages.Params]  # type: ignore[name-defined]  # the module, not the field
    tokenizer: tokenizer.Tokenizer
    settings: Settings
    provenance: Mapping[str, Any]
    mesh: Mesh | None = None
    preview: Callable[[str, Array], None] | None = None

    def text_to_video(
        self,
        prompt: str | Sequence[str],
        seed: int = 0,
        progress: Progress | None = None,
        negative: str = "",
        mix: Sequence[Mixed] = (),
        **settings: Any,
    ) -> UInt8[np.ndarray, "f h w 3"]:
        """A video of the prompt.

        prompt: several follow each other in a video of more frames than the decoder's clip has.
        negative: what should not be seen, from which guidance of the prior leads away. mix: other
        prompts or images, each with the share from 0 to 1 that it takes of what is seen. settings:
        changes to `self.settings`, see `Settings`. Warns of what `remarks` finds in the prompts.
        """
        for text in _prompts(prompt):
            for remark in self.remarks(text):
                warnings.warn(remark, stacklevel=2)
        pieces = self.stream(prompt, seed, progress, negative, mix, **settings)
        return np.concatenate(list(pieces))

    def text_to_image(
        self, prompt: str, seed: int = 0, progress: Progress | None = None, **options: Any
    ) -> UInt8[np.ndarray, "h w 3"]:
        """An image of the prompt: a video of one frame. options: as of `text_to_video`."""
        return self.text_to_video(prompt, seed, progress, **{**options, "frames": 1})[0]

    def animate(self, *args: Any, **options: Any) -> UInt8[np.ndarray, "f h w 3"]:
        """A video that begins with an image: `edits.animate`, whole."""
        return np.concatenate(list(edits.animate(self, *args, **options)))

    def tween(self, *args: Any, **options: Any) -> UInt8[np.ndarray, "f h w 3"]:
        """A video that leads from one image to another: `edits.tween`, whole."""
        return np.concatenate(list(edits.tween(self, *args, **options)))

    def vary(self, *args: Any, **options: Any) -> UInt8[np.ndarray, "f h w 3"]:
        """Another video of what a video shows: `edits.vary`, whole."""
        return np.concatenate(list(edits.vary(self, *args, **options)))

    def extend(self, *args: Any, **options: Any) -> UInt8[np.ndarray, "f h w 3"]:
        """A longer video: `edits.extend`, whole."""
        return np.concatenate(list(edits.extend(self, *args, **options)))

    def smooth(self, *args: Any, **options: Any) -> UInt8[np.ndarray, "f h w 3"]:
        """A video with frames between its frames: `edits.smooth`, whole."""
        return np.concatenate(list(edits.smooth(self, *args, **options)))

    def upscale(self, *args: Any, **options: Any) -> UInt8[np.ndarray, "f h w 3"]:
        """A larger video: `edits.upscale`, whole."""
        return np.concatenate(list(edits.upscale(self, *args, **options)))

    def stream(
        self,
        prompt: str | Sequence[str],
        seed: int = 0,
        progress: Progress | None = None,
        negative: str = "",
        mix: Sequence[Mixed] = (),
        **settings: Any,
    ) -> Iterator[UInt8[np.ndarray, "f h w 3"]]:
        """The frames of `text_to_video` piece by piece, so that memory stays bounded.

        Raises ValueError for bad input before the first network runs.
        """
        prompts = _prompts(prompt)
        if not prompts:
            raise ValueError("there is no prompt; write what should be seen, as 'a red ball'.")
        for text in [*prompts, *(what for what, _ in mix if isinstance(what, str))]:
            if not text.strip():
                raise ValueError("the prompt is empty; write what should be seen, as 'a red ball'.")
        for _, share in mix:
            if not 0 <= share <= 1:
                raise ValueError(f"mix takes a share of {share}; choose 0 to 1.")
        checked, keys, report = self.begin(seed, progress, settings)
        whole = (self.stages["decoder"].frames - 1) * checked.frame_skip + 1
        if len(prompts) > 1 and checked.frames <= whole:
            raise ValueError(
                f"{len(prompts)} prompts need a video of more than {whole} frames; "
                f"frames={checked.frames} show the first alone."
            )

        def pieces():
            embeddings = []
            for text in prompts:
                embedding = self.embed_prompt(text, keys["prior"], checked, report, negative)
                for what, share in mix:
                    if isinstance(what, str):
                        other = self.embed_prompt(what, keys["prior"], checked, report, negative)
                    else:
                        other = self.embed_image(what)
                    embedding = clip.slerp(embedding, other, share)
                embeddings.append(embedding)
            # No candidate should be chosen for the share of the prompt in a mixture.
            told = prompts[0] if self.stages["decoder"].network.text or not mix else ""
            made, own = self.decode(embeddings[0], keys["decoder"], checked, report, told, negative)
            seen = [own, *(embedding[:1] for embedding in embeddings[1:])]
            yield from self.finish(made, seen, keys, checked, report)

        return pieces()

    def begin(
        self,
        seed: int,
        progress: Progress | None,
        settings: Mapping[str, Any],
        skipped: Sequence[str] = (),
    ) -> tuple[Settings, dict[str, Key[Array, ""]], Progress]:
        """What every sampling starts with: settings that are possible, a key per stage, a report.

        skipped: stages that are not run. Raises ValueError for impossible settings and seeds, and
        for settings that need more memory than there is.
        """
        if not isinstance(seed, numbers.Integral) or not 0 <= seed < SEEDS:
            raise ValueError(
                f"seed={seed!r} is impossible; choose a whole number, 0 to {SEEDS - 1}."
            )
        keys = jax.random.split(jax.random.key(seed), len(stages.STAGES))
        keys = dict(zip(stages.STAGES, keys, strict=True))
        checked, free = self.check(settings), program.free_memory()
        for name in checked.path(self.stages):
            needed = 0 if name in skipped else self.needs(name, checked)
            if needed > free:
                raise ValueError(
                    f"{name} needs {needed / 2**30:.2g} GiB beside its parameters, and "
                    f"{free / 2**30:.2g} GiB are free; {self._saves(name, checked)}."
                )
        return checked, keys, Bars() if progress is None else progress

    def needs(self, name: str, settings: Settings) -> int:
        """Bytes that a stage needs on a device beside parameters, as `program.count_bytes` counts.

        Nothing is compiled or run for it.
        """
        stage, decoder = self.stages[name], self.stages["decoder"]
        frames = dict(sr_256=WINDOW, sr_768=settings.chunk).get(name, stage.frames)
        frames = min(settings.frames, frames)

        def asked():
            size = stage.low_size or decoder.size
            video, known = jnp.zeros((1, frames, size, size, 3)), jnp.ones((1, frames))
            embedding = jnp.zeros((1, self.stages["clip"].network.embedding_features))
            key = jax.random.key(0)
            asks = dict(
                prior=lambda: self.ask_prior("", settings),
                decoder=lambda: self.ask_decoder(embedding, settings),
                interpolation=lambda: self.ask_interpolation(video, known, embedding, settings),
            )
            enlarges = lambda: self.ask_super_resolution(name, video, key, settings)
            shape, cond, null = asks.get(name, enlarges)()
            return samplers.start(stage.process, key, shape), cond, null

        given = jax.eval_shape(asked)
        row = {column: values[:1] for column, values in settings.rows(name, self.stages).items()}
        with sharding.use(self.mesh):
            traced = advance.trace(*self._call(name, row, settings, *given))
        own = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(given[1:]))
        own += sum(leaf.size * leaf.dtype.itemsize for leaf in given[0][:-1])
        number = 1 if self.mesh is None else self.mesh.shape["context"] * self.mesh.shape["tensor"]
        return (program.count_bytes(traced.jaxpr) + own) // number

    def _saves(self, name: str, settings: Settings) -> str:
        """What to change so that a stage needs less memory."""
        if settings.candidates.get(name, 1) > 1:
            return f"lower candidates of {name}={settings.candidates[name]}"
        if name == "sr_768" and settings.chunk > 1:
            return f"lower chunk={settings.chunk}"
        if name == "sr_256":
            return f"choose size={self.stages['decoder'].size}, or fewer frames"
        return "divide it over devices by a mesh such as context=8, or compute in bfloat16"

    def check(self, changes: Mapping[str, Any]) -> Settings:
        """The settings with changes, if they are possible; else ValueError."""
        settings = self.settings.updated(changes)
        settings.check(self.name, self.stages)
        return settings

    def remarks(self, prompt: str) -> list[str]:
        """What of a prompt this cascade cannot take in: the end that is cut off, unknown words."""
        found = []
        cut = self.tokenizer.cut(prompt)
        if cut:
            found.append(f"the prompt is too long; left out: {cut!r}")
        seen = self.provenance.get("words")
        unknown = [w for w in dict.fromkeys(tokenizer.words(prompt)) if seen and w not in seen]
        if unknown:
            shows = self.provenance.get("shows", {"words": seen})
            known = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in shows.items())
            found.append(f"{self.name} has never seen {', '.join(unknown)}. It knows {known}.")
        return found

    def output_fps(self, settings: Settings) -> float:
        """Frames per second at which the video plays in real time."""
        interpolated = settings.frames > self.stages["decoder"].frames
        return settings.fps * (settings.frame_skip if interpolated else 1)

    def finish(
        self,
        clip: Float[Array, "1 f 64 64 3"],
        image_embeddings: Sequence[Float[Array, "1 d"]],
        keys: Mapping[str, Key[Array, ""]],
        settings: Settings,
        report: Progress = silent,
    ) -> Iterator[UInt8[np.ndarray, "f h w 3"]]:
        """What the settings make of a clip of the decoder: longer, smoother and larger, in pieces.

        image_embeddings: what is seen, one after the other. keys: by stage.
        """
        frames, pieces = settings.frames, iter([clip])
        if frames > clip.shape[1]:
            slow = math.ceil((frames - 1) / settings.frame_skip) + 1
            key = jax.random.fold_in(keys["interpolation"], CONTINUED)
            pieces = self.extrapolate(clip, slow, image_embeddings, key, settings, report)
            pieces = self.interpolate(pieces, slow, keys["interpolation"], settings, report)
            pieces = windows.take(pieces, frames)
        yield from self.enlarge(pieces, frames, keys, settings, report)

    def enlarge(
        self,
        pieces: Iterable[Float[Array, "1 f h w 3"]],
        frames: int,
        keys: Mapping[str, Key[Array, ""]],
        settings: Settings,
        report: Progress = silent,
        size: int | None = None,
    ) -> Iterator[UInt8[np.ndarray, "f2 h2 w2 3"]]:
        """A video in the size of the settings, as pixels, in pieces.

        frames: how many come. size: of those, None is the decoder's.
        """
        size = self.stages["decoder"].size if size is None else size
        path = settings.path(self.stages)
        for name, upscale in (("sr_256", self.upscale_256), ("sr_768", self.upscale_768)):
            if name in path and size < self.stages[name].size:
                pieces = upscale(pieces, frames, keys[name], settings, report)
        for piece in pieces:
            if piece.shape[1]:
                yield media.to_uint8(np.asarray(piece[0]))

    def embed_prompt(
        self,
        prompt: str,
        key: Key[Array, ""],
        settings: Settings,
        report: Progress = silent,
        negative: str = "",
    ) -> Float[Array, "n d"]:
        """The image embeddings that the prior imagines for a prompt (P), nearest to it first.

        As many as the decoder has candidates, or the prior, if it has fewer.
        """
        network = self.stages["clip"].network
        shape, cond, null = self.ask_prior(prompt, settings, negative)
        found = self._sample("prior", key, shape, cond, null, settings, report)
        prior, params = self.stages["prior"].network, self.params["prior"]
        found = prior.apply({"params": params}, found, method="unwhiten")
        if network.normalized:
            found = clip.normalize(found)
        order = jnp.argsort(-(found @ cond["text_embedding"][0]))
        return found[order[: settings.candidates.get("decoder", 1)]]

    def ask_prior(self, prompt: str, settings: Settings, negative: str = "") -> Asked:
        """What `embed_prompt` asks the network for."""
        candidates = settings.candidates.get("prior", 1)
        shape = (candidates, self.stages["clip"].network.embedding_features)
        return shape, *self.embed_text(prompt, candidates, negative)

    def embed_image(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Array, "1 d"]:
        """CLIP embedding of the square in the middle of an image, as the decoder is told it."""
        if not self.stages["clip"].network.image_size:
            raise ValueError(f"{self.name} cannot look at images: its CLIP has no image tower.")
        return self.embed_first_frame(edits.fit(image[None], self.stages["decoder"].size))

    def embed_text(
        self, prompt: str, batch: int, negative: str = ""
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """What networks are told of a prompt and, for guidance, of another, `batch` times."""
        tokens = self.tokenizer([prompt, negative])
        text = _embed_text(self.stages["clip"], self.params["clip"], tokens)
        repeated = lambda i: {
            name: jnp.repeat(value[i : i + 1], batch, axis=0) for name, value in text.items()
        }
        return repeated(0), repeated(1)

    def decode(
        self,
        image_embedding: Float[Array, "n d"],
        key: Key[Array, ""],
        settings: Settings,
        report: Progress = silent,
        prompt: str = "",
        negative: str = "",
    ) -> tuple[Float[Array, "1 f 64 64 3"], Float[Array, "1 d"]]:
        """A video that begins with an image of the given embedding (D^t); one frame if so set.

        image_embedding: of several, each candidate is told another, in turn. prompt: what
        candidates are compared by, beside the embedding; and read by networks that take text as
        well, as Karlo's; MAV's does not. negative: read by such networks for guidance.
        Returns the embedding that the chosen candidate was told as well.
        """
        asked = self.ask_decoder(image_embedding, settings, prompt, negative)
        told = asked[1]["image_embedding"]

        def choose(videos):
            nonlocal told
            best = self.nearest(videos, told, prompt)
            told = jax.lax.dynamic_slice_in_dim(told, best, 1)
            return best

        chosen = choose if len(told) > 1 else None
        return self._sample("decoder", key, *asked, settings, report, chosen), told

    def ask_decoder(
        self,
        image_embedding: Float[Array, "n d"],
        settings: Settings,
        prompt: str = "",
        negative: str = "",
    ) -> Asked:
        """What `decode` asks the network for."""
        stage = self.stages["decoder"]
        b = settings.candidates.get("decoder", 1)
        image_embedding = image_embedding[np.arange(b) % len(image_embedding)]
        frames = min(settings.frames, stage.frames)
        cond = dict(image_embedding=image_embedding, drop_image=jnp.zeros(b, bool))
        if stage.network.fps:
            cond["fps"] = jnp.full(b, settings.fps)
        null = dict(drop_image=jnp.ones(b, bool))
        if stage.network.fps and settings.still_fps is not None:
            null["fps"] = jnp.full(b, settings.still_fps)
        if stage.network.text:
            text, no_text = self.embed_text(prompt, b, negative)
            cond, null = cond | text, null | no_text
        return (b, frames, stage.size, stage.size, 3), cond, null

    def nearest(
        self,
        videos: Float[Array, "b f h w 3"],
        image_embedding: Float[Array, "b d"],
        prompt: str = "",
    ) -> Int[Array, ""]:
        """Which video's frames are nearest to what it was told, in the mean over frames.

        Near to the prompt too, if there is one: together they tell more than either (the cosines
        are added).
        """
        frames = videos.reshape(-1, 1, *videos.shape[2:])
        images = clip.normalize(self.embed_first_frame(frames))
        wanted = clip.normalize(image_embedding)
        if prompt:
            wanted += clip.normalize(self.embed_text(prompt, 1)[0]["text_embedding"])
        images = images.reshape(len(videos), -1, wanted.shape[1])
        return jnp.argmax(jnp.einsum("bfd,bd->b", images, wanted))

    def fill(
        self,
        video: Float[Array, "b f 64 64 3"],
        known: Float[Array, "b f"],
        image_embedding: Float[Array, "b d"],
        key: Key[Array, ""],
        settings: Settings,
        report: Progress = silent,
        frame_skip: int = 1,
    ) -> Float[Array, "b f 64 64 3"]:
        """A clip whose frames are partly known (1); those come back unchanged (F).

        frame_skip: output frames per decoder frame, which the clip then shows.
        """
        asked = self.ask_interpolation(video, known, image_embedding, settings, frame_skip)
        use = "extrapolation" if frame_skip == 1 else "interpolation"
        found = self._sample(use, key, *asked, settings, report)
        # Bit for bit: the sampler's last step leaves rounding behind.
        return jnp.where(asked[1]["mask"] > 0, video, found)

    def ask_interpolation(
        self,
        video: Float[Array, "b f 64 64 3"],
        known: Float[Array, "b f"],
        image_embedding: Float[Array, "b d"],
        settings: Settings,
        frame_skip: int = 1,
    ) -> Asked:
        """What `fill` asks the network for."""
        b = len(video)
        cond = stages.keyframes(video, known) | dict(
            image_embedding=image_embedding,
            drop_image=jnp.zeros(b, bool),
            frame_skip=jnp.full(b, float(frame_skip)),
            fps=jnp.full(b, settings.fps * frame_skip),
        )
        return video.shape, cond, dict(drop_image=jnp.ones(b, bool))

    def extrapolate(
        self,
        clip: Float[Array, "b f 64 64 3"],
        frames: int,
        image_embeddings: Sequence[Float[Array, "b d"]],
        key: Key[Array, ""],
        settings: Settings,
        report: Progress = silent,
        before: bool = False,
    ) -> Iterator[Float[Array, "b f2 64 64 3"]]:
        """A clip and what follows it, `frames` or a few more in all, in pieces (F).

        Each window begins with the last `settings.overlap` frames there are. image_embeddings: what
        is seen; they take turns, as long each, and the clip shows the first. before: what came
        before the clip instead, going back piece by piece, by windows that end with the first ones.
        """
        yield clip[:, :frames]
        b, have = clip.shape[:2]
        length, overlap = self.stages["interpolation"].frames, min(settings.overlap, have)
        number = max(0, math.ceil((frames - have) / (length - overlap)))
        # Of a window: where it overlaps the clip before it, and what is new.
        here, new = slice(overlap), slice(overlap, None)
        edge = slice(-overlap, None)
        if before:
            here, new, edge = slice(-overlap, None), slice(-overlap), slice(overlap)
        known = jnp.zeros((b, length)).at[:, here].set(1)
        for i in range(number):
            given = jnp.zeros((b, length, *clip.shape[2:])).at[:, here].set(clip[:, edge])
            done = lambda _, *of, i=i: _nested(report, i, number, "extrapolation", *of)
            embedding = image_embeddings[(i + 1) * len(image_embeddings) // (number + 1)]
            next_key = jax.random.fold_in(key, i)
            clip = self.fill(given, known, embedding, next_key, settings, done)
            yield clip[:, new]

    def interpolate(
        self,
        pieces: Iterable[Float[Array, "b f 64 64 3"]],
        frames: int,
        key: Key[Array, ""],
        settings: Settings,
        report: Progress = silent,
    ) -> Iterator[Float[Array, "b f2 64 64 3"]]:
        """frame_skip - 1 new frames between each two; the given ones come back unchanged (F).

        Windows of the clip length share their end frames: with 16 frames and a skip of 5, five
        windows with known frames at 0, 5, 10 and 15 give 76 frames. frames: how many come.
        """
        length, skip = self.stages["interpolation"].frames, settings.frame_skip
        given_length = (length - 1) // skip + 1
        number = windows.count(frames, given_length, 1)
        for i, (given, seen) in enumerate(windows.cut(pieces, given_length, 1)):
            b, n = given.shape[:2]
            known = jnp.zeros((b, length)).at[:, : n * skip : skip].set(1)
            clip = jnp.zeros((b, length, *given.shape[2:])).at[:, : n * skip : skip].set(given)
            done = functools.partial(_nested, report, i, number)
            embedding = self.embed_first_frame(given)
            clip = self.fill(
                clip, known, embedding, jax.random.fold_in(key, i), settings, done, skip
            )
            yield clip[:, max(0, (seen - 1) * skip + 1) : (n - 1) * skip + 1]

    def embed_first_frame(self, video: Float[Array, "b f h w 3"]) -> Float[Array, "b d"]:
        """CLIP embedding of the first frame."""
        return _embed_first_frame(self.stages["clip"], self.params["clip"], video[:, :1])

    def upscale_256(
        self,
        pieces: Iterable[Float[Array, "b f 64 64 3"]],
        frames: int,
        key: Key[Array, ""],
        settings: Settings,
        report: Progress = silent,
    ) -> Iterator[Float[Array, "b f2 256 256 3"]]:
        """Space-time super-resolution (SR_l^t), a window of 76 frames at a time.

        Frames that two windows share have the same noise in both, and fade from one to the other.
        frames: how many come.
        """
        stage, number = self.stages["sr_256"], windows.count(frames, WINDOW, FADE)
        noise_key, key = jax.random.split(key)

        def enlarged():
            noise = low_res = None
            for i, (video, seen) in enumerate(windows.cut(pieces, WINDOW, FADE)):
                shape, cond, _ = self.ask_super_resolution("sr_256", video, noise_key, settings)
                same = lambda last, new, n=seen: (
                    jnp.concatenate([last[:, -n:], new[:, n:]], axis=1) if n else new
                )
                noise = same(noise, _start(stage.process, key, shape, self.mesh).x)
                low_res = same(low_res, cond["low_res"])
                cond["low_res"] = low_res
                done = functools.partial(_nested, report, i, number)
                x = self._sample("sr_256", key, shape, cond, {}, settings, done, noise=noise)
                yield x, seen

        return windows.fade(enlarged(), FADE)

    def upscale_768(
        self,
        pieces: Iterable[Float[Array, "b f 256 256 3"]],
        frames: int,
        key: Key[Array, ""],
        settings: Settings,
        report: Progress = silent,
    ) -> Iterator[Float[Array, "b f2 768 768 3"]]:
        """Super-resolution of single frames, all from the same noise, in chunks (SR_h).

        frames: how many come.
        """
        chunk = min(settings.chunk, frames)
        number = windows.count(frames, chunk)
        noise_key, key = jax.random.split(key)
        for i, (video, seen) in enumerate(windows.cut(pieces, chunk)):
            asked = self.ask_super_resolution("sr_768", video, noise_key, settings)
            done = functools.partial(_nested, report, i, number)
            yield self._sample("sr_768", key, *asked, settings, done)[:, seen:]

    def ask_super_resolution(
        self, name: str, video: Float[Array, "b f h w 3"], key: Key[Array, ""], settings: Settings
    ) -> Asked:
        """What `upscale_256` and `upscale_768` ask their networks for."""
        stage = self.stages[name]
        level = jnp.full(len(video), settings.aug_level[name])
        shape = (*video.shape[:2], stage.size, stage.size, 3)
        return shape, _low_res_condition(stage, video, stage.size, level, key), {}

    def _sample(self, *args, **options):
        """Runs one stage's sampler in pieces of one network call, reporting after each."""
        with sharding.use(self.mesh):
            return self._sample_here(*args, **options)

    def _sample_here(self, name, key, shape, cond, null, settings, report, choose=None, noise=None):
        rows = settings.rows(name, self.stages)
        state = _start(self.stages[network_of(name)].process, key, shape, self.mesh)
        if noise is not None:
            state = state._replace(x=jnp.copy(noise))  # `advance` takes over what it is given
        num_steps = len(rows["t"])
        report(name, 0, num_steps)
        for i in range(num_steps):
            if choose is not None and i == num_steps // 3:
                best = choose(state.x0)
                only = lambda leaf, i=best: jax.lax.dynamic_slice_in_dim(leaf, i, 1)
                *arrays, key = state
                arrays, cond, null = jax.tree.map(only, (arrays, cond, null))
                state = samplers.State(*arrays, key)
            row = {column: values[i : i + 1] for column, values in rows.items()}
            last = i == num_steps - 1 and f"{name}_last" in self.stages
            used = f"{name}_last" if last else name
            state = advance(*self._call(used, row, settings, state, cond, null))
            jax.block_until_ready(state.x)
            if self.preview is not None:
                self.preview(name, state.x0)
            report(name, i + 1, num_steps)
        return state.x

    def _call(self, used, row, settings, state, cond, null):
        """What `advance` is given for a step of a stage, or of the one that takes its last."""
        name, network = used.removesuffix("_last"), network_of(used)
        stage = _bounded(self.stages[network], settings.of("dynamic_threshold", name))
        low, high = settings.of("guidance_interval", name, (0, 1))
        share = row["t"][0] / (stage.process.schedule.num_timesteps - 1)
        inside = low <= share <= high
        scale = float(settings.of("guidance_scale", name, 1.0)) if inside else 1.0
        rescale = float(settings.of("guidance_rescale", name, 0.0))
        params = self.params[network]
        return stage, scale, rescale, "mask" in cond, state, row, params, cond, null


def _prompts(prompt: str | Sequence[str]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt)


def _bounded(stage: stages.Stage, threshold: float | None) -> stages.Stage:
    """The stage with another dynamic threshold; None leaves its own."""
    if threshold is None:
        return stage
    process = dataclasses.replace(stage.process, dynamic_threshold=threshold)
    return dataclasses.replace(stage, process=process)


def facts(command: str, named: str, settings: Settings, told: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of how it was made, beside the seed: `mav show` prints it.

    named: what `--cascade` calls the cascade. told: what the command was given.
    """
    import mav

    return dict(
        title=told.get("prompt", command),
        made_by=f"mav {mav.__version__}",
        ai_generated=True,
        command=command,
        **told,
        cascade=named,
        settings={
            name: {stage: table[stage] for stage in SAMPLED if stage in table}
            if isinstance(table, dict)
            else table
            for name, table in dataclasses.asdict(settings).items()
        },
    )


def _nested(report, outer, num_outer, name, done, total):
    """Reports a loop inside a loop as one count."""
    report(name, outer * total + done, num_outer * total)


def load(
    name_or_path: str | os.PathLike = "cutout", dtype: str = "float32", mesh: Mesh | None = None
) -> Cascade:
    """Loads a shipped cascade by name, or any cascade folder.

    dtype: in which the networks compute, "float32" or "bfloat16"; parameters are float32, and stay
    on the device if they take no more than half of what is free there.
    mesh: of `sharding.make_mesh`, over which parameters and videos are divided.
    Raises ValueError if there is none or a file is damaged, naming it.
    """
    root = folders.resolve(name_or_path)
    index = folders.read_index(root)
    lacking = [name for name in ("clip", "prior", "decoder") if name not in index["stages"]]
    if lacking:
        raise ValueError(f"cascade {root} has no {', '.join(lacking)}; export a run of each to it.")
    loaded = {name: folders.load_stage(root, name, dtype, mesh) for name in index["stages"]}
    built = {name: stage for name, (stage, _) in loaded.items()}
    params = {name: params for name, (_, params) in loaded.items()}
    if 2 * 4 * params_lib.count(params) <= program.free_memory():
        params = jax.device_put(params)  # once; else each call takes those of its stage along
    bpe = tokenizer.Tokenizer.load(root / "tokenizer.json", built["clip"].network.max_tokens)
    settings = Settings(**index["settings"])
    return Cascade(index["name"], built, params, bpe, settings, index["provenance"], mesh)
