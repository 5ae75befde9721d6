"""Each stage of a cascade alone: what it makes of real input, and what one has without it.

Prompts, real videos and the judge are those of the cutout protocol. Where something is measured of
several videos, ± is the standard error of its mean over them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mav import cascade as cascade_lib
from mav import media
from mav.evaluate import classifier, cutout_measures, cutout_prompts, fidelity, metrics
from mav.evaluate.cutout_prompts import Prompt, Video

NUM_PICTURES = 4  # real ones per prompt, that the prior's embedding is compared with
RATES = (1.5, 3.0, 6.0, 12.0)  # fps that the decoder is asked for
WINDOWS = 2  # of each clip that is interpolated
SR_FRAMES = dict(sr_256=8, sr_768=3)  # of each clip that is enlarged; sr_768 sees one at a time
AT_ONCE = 2  # prompts that are measured; on two cores four videos then take 31 s instead of 37
CHANCE = 1 / (len(classifier.CLASSES["object"]) * len(classifier.CLASSES["colour"]))

Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class Bench:
    """What every measure needs. settings: changes to the cascade's own, as of `text_to_video`."""

    cascade: cascade_lib.Cascade
    judge: classifier.Judge
    prompts: Sequence[Prompt]
    seed: int
    settings: Mapping[str, Any]
    report: cascade_lib.Progress

    def begin(self, n: int, **changes: Any):
        """Settings and keys of prompt n: those with which the protocol draws its video."""
        settings = {**self.settings, **changes}
        seed = cutout_prompts.video_seed(self.seed, n)
        checked, keys, _ = self.cascade.begin(seed, cascade_lib.silent, settings)
        return checked, keys

    def real(self, n: int, fps: float, frames: int, size: int, k: int = 0) -> Video:
        """A real video that is not among those the protocol compares with."""
        seed = (self.seed, n, cutout_prompts.NUM_REAL + k)
        return cutout_prompts.real_video(self.prompts[n], seed, fps, frames, size)

    def each(self, name: str, count: int, measure: Callable[[int], Found]) -> list[Found]:
        """What is found of each number below count, in order; reports how far it has come.

        AT_ONCE of them: one is drawn and judged while networks work on the other, and networks
        that wait for memory or for each other's threads leave no core idle.
        """
        found = []
        self.report(name, 0, count)
        with futures.ThreadPoolExecutor(AT_ONCE) as pool:
            for value in pool.map(measure, range(count)):
                found.append(value)
                self.report(name, len(found), count)
        return found


def run(bench: Bench, clips: int) -> dict[str, Any]:
    """All measures, by stage; None of a stage that the cascade has not.

    clips: real ones for each stage but the prior, which takes all prompts.
    """
    present, clips = bench.cascade.stages, min(clips, len(bench.prompts))
    enlarged = lambda name: super_resolution(bench, name, clips) if name in present else None
    return dict(
        prior=prior(bench) if present["clip"].network.image_size else None,
        decoder=decoder(bench, clips) if present["clip"].network.image_size else None,
        pace=pace(bench, clips) if present["decoder"].network.fps else None,
        interpolation=interpolation(bench, clips) if "interpolation" in present else None,
        sr_256=enlarged("sr_256"),
        sr_768=enlarged("sr_768"),
    )


def prior(bench: Bench) -> dict[str, Any]:
    """Cosines of the embeddings that the prior imagines, to CLIP's of real pictures of the prompt.

    among: of those pictures to each other. other: of pictures to those of other prompts. What lies
    amid the pictures is nearer to them than they are to each other, so `among` is no upper limit.
    """
    cascade, size = bench.cascade, bench.cascade.stages["decoder"].size

    def measure(n):
        checked, keys = bench.begin(n, size=size)
        imagined = cascade.embed_prompt(bench.prompts[n].text, keys["prior"], checked)[0]
        pictures = np.stack([bench.real(n, 1, 1, size, k) for k in range(NUM_PICTURES)])
        return imagined, cascade.embed_first_frame(jnp.asarray(media.to_float(pictures)))

    found = zip(*bench.each("prior", len(bench.prompts), measure), strict=True)
    imagined, seen = (metrics.unit(np.stack(embeddings)) for embeddings in found)
    cosines = np.einsum("nkd,mjd->nmkj", seen, seen).mean((2, 3))
    alone = np.einsum("nkd,njd->nkj", seen, seen)
    pairs = np.triu_indices(NUM_PICTURES, 1)
    rest = len(seen) - 1
    others = (cosines.sum(1) - cosines.diagonal()) / rest if rest else []
    return dict(
        found=cutout_measures.mean(np.einsum("nd,nkd->nk", imagined, seen).mean(1)),
        among=cutout_measures.mean(alone[:, pairs[0], pairs[1]].mean(1)),
        other=cutout_measures.mean(others),
    )


def decoder(bench: Bench, clips: int) -> dict[str, Any]:
    """What is recognised, where the decoder is told the embeddings of real pictures.

    One candidate alone: the choice among several is made by CLIP.
    """
    cascade, stage = bench.cascade, bench.cascade.stages["decoder"]

    def measure(n):
        checked, keys = bench.begin(n, size=stage.size, frames=stage.frames, candidates=1)
        embedding = cascade.embed_image(bench.real(n, 1, 1, stage.size)[0])
        prompt = bench.prompts[n]
        video, _ = cascade.decode(embedding, keys["decoder"], checked, prompt=prompt.text)
        verdict = bench.judge(media.to_uint8(video[0]))
        return cutout_measures.recognised(verdict, prompt)

    found = bench.each("decoder", clips, measure)
    return {
        name: cutout_measures.mean([video[name] for video in found])
        for name in cutout_measures.SHARES
    }


def pace(bench: Bench, clips: int) -> dict[str, Any]:
    """How far things move from frame to frame, by the fps that the decoder is asked for.

    step: of the thing's centre. change: of pixels. Medians over prompts, at each of RATES.
    correlation: rank correlation of step and fps, the mean over prompts; -1 falls with every rate.
    The same noise, and the embedding of a real picture, at all rates of a prompt. One candidate
    alone: the choice among several would be another at each rate. Of as many prompts as a quarter
    of the clips, of things that move.
    """
    cascade, stage = bench.cascade, bench.cascade.stages["decoder"]
    movers = [n for n in range(clips) if bench.prompts[n].object != "house"][: max(1, clips // 4)]

    def measure(i):
        n = movers[i]
        embedding = cascade.embed_image(bench.real(n, 1, 1, stage.size)[0])
        videos = {"generated": [], "real": []}
        for fps in RATES:
            options = dict(size=stage.size, frames=stage.frames, fps=fps, candidates=1)
            checked, keys = bench.begin(n, **options)
            video, _ = cascade.decode(embedding, keys["decoder"], checked)
            videos["generated"].append(media.to_uint8(video[0]))
            videos["real"].append(bench.real(n, fps, stage.frames, stage.size))
        moved = lambda video: step(bench.judge(video).position)
        changed = lambda video: cutout_measures.flicker(video)["change"]
        return {kind: ([*map(moved, of)], [*map(changed, of)]) for kind, of in videos.items()}

    found = bench.each("fps", len(movers), measure)
    rows = {
        kind: np.stack([each[kind] for each in found], axis=1) for kind in ("generated", "real")
    }
    medians = lambda i: {kind: np.median(each[i], axis=0).tolist() for kind, each in rows.items()}
    correlation = {
        kind: cutout_measures.mean([rank_correlation(RATES, row) for row in steps])
        for kind, (steps, _) in rows.items()
    }
    return dict(fps=RATES, step=medians(0), change=medians(1), correlation=correlation)


def step(position: Float[np.ndarray, "f 2"]) -> float:
    """Mean distance from frame to frame, in widths of the frame."""
    return float(np.linalg.norm(np.diff(position, axis=0), axis=1).mean())


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's; equal values share the mean of their ranks. 0 where all of one are equal."""
    ranks = []
    for values in (x, y):
        ordered = np.sort(values)
        ends = [np.searchsorted(ordered, values, side) for side in ("left", "right")]
        ranks.append(np.mean(ends, axis=0))
    if min(map(np.ptp, ranks)) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def interpolation(bench: Bench, clips: int) -> dict[str, Any]:
    """The frames between those that the interpolation is given, beside the true ones.

    blend, flow: of `fidelity`, in its place; flow is None without OpenCV.
    """
    cascade, stage = bench.cascade, bench.cascade.stages["interpolation"]
    checked, _ = bench.begin(0, size=stage.size)
    skip, means = checked.frame_skip, dict(blend=fidelity.blend)
    if fidelity.HAS_FLOW:
        means["flow"] = fidelity.flow

    frames = WINDOWS * ((stage.frames - 1) // skip) * skip + 1

    def measure(n):
        true = bench.real(n, checked.fps * skip, frames, stage.size)
        given, between = true[::skip], np.arange(len(true)) % skip != 0
        seed, options = cutout_prompts.video_seed(bench.seed, n), {**bench.settings}
        options |= dict(size=stage.size, progress=cascade_lib.silent)
        made = dict(found=cascade.smooth(given, checked.fps, seed=seed, **options))
        made |= {name: function(given, skip) for name, function in means.items()}
        return {name: nearness(video[between], true[between]) for name, video in made.items()}

    return nearnesses(bench.each("interpolation", clips, measure))


def super_resolution(bench: Bench, name: str, clips: int) -> dict[str, Any]:
    """Real videos, made small and enlarged, beside the true ones.

    bicubic: in its place. flicker: as `second_difference` of `cutout_measures.flicker`, in grey
    levels. independent: flicker where each frame has noise of its own; None where it has anyway.
    """
    stage = bench.cascade.stages[name]
    independent = None
    if stage.process.shared_noise:
        process = dataclasses.replace(stage.process, shared_noise=0.0)
        changed = dict(bench.cascade.stages) | {name: dataclasses.replace(stage, process=process)}
        independent = dataclasses.replace(bench.cascade, stages=changed)
    checked, _ = bench.begin(0, size=stage.size)
    fps = checked.fps * checked.frame_skip

    def measure(n):
        true = bench.real(n, fps, SR_FRAMES[name], stage.size)
        small = media.resize(true, stage.low_size, "box")
        options = {**bench.settings} | dict(size=stage.size, progress=cascade_lib.silent)
        options |= dict(seed=cutout_prompts.video_seed(bench.seed, n))
        made = dict(found=bench.cascade.upscale(small, **options))
        made["bicubic"] = media.resize(small, stage.size, "bicubic")
        row = {kind: nearness(video, true) for kind, video in made.items()}
        made["true"] = true
        if independent is not None:
            made["independent"] = independent.upscale(small, **options)
        measured = {kind: cutout_measures.flicker(video) for kind, video in made.items()}
        return row, {kind: found["second_difference"] for kind, found in measured.items()}

    rows, flickers = zip(*bench.each(name, clips, measure), strict=True)
    kinds = ("found", "bicubic", "independent", "true")
    of = lambda kind: [row[kind] for row in flickers if kind in row]
    return nearnesses(rows) | dict(flicker={kind: cutout_measures.mean(of(kind)) for kind in kinds})


def nearness(found: Video, true: Video) -> dict[str, float]:
    """How near a video is to the true one."""
    return dict(psnr=fidelity.psnr(found, true), ssim=fidelity.ssim(found, true))


def nearnesses(rows: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Means over clips of PSNR and SSIM, and of what the stage gains over each simpler means."""
    summary = {}
    for measure in ("psnr", "ssim"):
        values = {kind: np.array([row[kind][measure] for row in rows]) for kind in rows[0]}
        gains = {
            kind: cutout_measures.mean(values["found"] - other)
            for kind, other in values.items()
            if kind != "found"
        }
        means = {kind: cutout_measures.mean(each) for kind, each in values.items()}
        summary[measure] = dict(**means, gain=gains)
    return summary
