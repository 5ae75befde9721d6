"""Times reading 16 frames at a random fps: from mav's records, and by seeking in the mp4.

    .venv/bin/python tests/benchmarks/data.py [--seconds 20] [--clips 40]

Draws videos of moving colours as H.264 with x264's usual key frames (every 250), builds data
sets of them, and prints for each size the clips per second of one core and the share of decoding.
With torchcodec installed, and FFmpeg's libraries, it is timed too. Then, for each stage that learns
from clips, how many cores a host needs so that its chips do not wait: at paper size, if they reach
`--mfu` of their peak.
"""

import argparse
import cProfile
import importlib.util
import io
import pathlib
import pstats
import tempfile
import time

import av
import jax
import numpy as np
from PIL import Image

from mav import media, plan, program, recipe, sharding
from mav.commands import config_files
from mav.data import builders, prepare, sources

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
FRAMES = 16
HEIGHT, WIDTH = 336, 596  # of the mp4
STAGES = ("decoder", "interpolation", "sr_256")
HOSTS = {"one H200": 989e12, "a host of 8 v5e": 8 * plan.CHIPS["v5e"].flops}  # bfloat16
CURRICULUM = sources.FpsCurriculum((1.0, 1.0), (1.0, 1.0), 1)  # 1..30 fps alike


def draw(path: pathlib.Path, seconds: float, seed: int) -> None:
    """A video of colours that move, in the size of WebVid's."""
    rng = np.random.default_rng(seed)
    small = rng.integers(256, size=(12, 16, 3), dtype=np.uint8)
    wide = Image.fromarray(small).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC)
    wide = np.asarray(wide)
    steps = np.arange(int(30 * seconds))
    tops = (HEIGHT * (1 + np.sin(steps / 50)) / 2).astype(int)
    lefts = (WIDTH * (1 + np.cos(steps / 70)) / 2).astype(int)
    frames = (wide[y : y + HEIGHT, x : x + WIDTH] for y, x in zip(tops, lefts, strict=True))
    media.write(path, frames, 30)


def rate(call, number: int) -> float:
    """Calls per second of processor time, which other work on the machine does not change."""
    call(0)
    start = time.process_time()
    for i in range(1, number + 1):
        call(i)
    return number / (time.process_time() - start)


def choose(paths: list[pathlib.Path], seed: int, i: int) -> tuple[pathlib.Path, np.ndarray]:
    """A video, and the seconds at which its frames are wanted."""
    rng = np.random.default_rng((seed, i))
    path = paths[rng.integers(len(paths))]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        last = float(stream.duration * stream.time_base) - 1 / 30
    fps = max(CURRICULUM.draw(0, rng), (FRAMES - 1) / last)
    return path, rng.uniform(0, last - (FRAMES - 1) / fps) + np.arange(FRAMES) / fps


def seek(path: pathlib.Path, wanted: np.ndarray, size: int) -> np.ndarray:
    """The same clip by a plain PyAV loop: seek to the key frame before it, decode, keep 16."""
    wide, kept = round(size * WIDTH / HEIGHT), []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        container.seek(int(wanted[0] / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            while len(kept) < FRAMES and frame.time >= wanted[len(kept)] - 1 / 60:
                kept.append(frame.reformat(wide, size, "rgb24").to_ndarray())
            if len(kept) == FRAMES:
                break
    return np.stack(kept)


def torch_clip(path: pathlib.Path, wanted: np.ndarray, size: int) -> np.ndarray:
    """The same by torchcodec, in its faster way of seeking."""
    from torchcodec import decoders, transforms

    resize = transforms.Resize((size, round(size * WIDTH / HEIGHT)))
    decoder = decoders.VideoDecoder(path, seek_mode="approximate", transforms=[resize])
    return decoder.get_frames_played_at(wanted.tolist()).data.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seconds", type=float, default=20, help="of a video (20)")
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--clips", type=int, default=40, help="that are timed")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the chips' peak (0.4)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = {
            size: measure(pathlib.Path(folder) / str(size), size, options) for size in options.sizes
        }
    for stage in STAGES:
        config, flops = training(stage)
        print(f"{stage}: {flops / 1e12:.1f} TFLOP per clip", end="")
        for host, peak in HOSTS.items():
            wanted = options.mfu * peak / flops
            cores = wanted / rates[config.data.size]
            print(f"; {host} takes {wanted:.2f} clips/s, {cores:.2f} cores", end="")
        print(flush=True)


def training(stage: str):
    """A stage's config at paper size, and the floating-point operations of training on a clip."""
    load = lambda name, arg: config_files.read(f"{CONFIGS}/{name}.py:{arg}", [])
    config, clip_config = load(stage, "paper,video"), load("clip", "paper")
    config.data.batch_size = 1
    mesh = sharding.make_mesh(dict(data=1))
    with sharding.use(mesh):
        trained, state, batch, parents = recipe.shapes(config, clip_config, mesh)
        key = jax.eval_shape(lambda: jax.random.key(0))
        traced = jax.jit(trained.step).trace(state, batch, parents, key)
    return config, program.count_flops(traced.jaxpr)


def measure(folder: pathlib.Path, size: int, options: argparse.Namespace) -> float:
    """Prints what was measured at a size; clips per second of one core."""
    (folder / "in").mkdir(parents=True)
    paths = [folder / "in" / f"{i}.mp4" for i in range(options.videos)]
    for seed, path in enumerate(paths):
        draw(path, options.seconds, seed)
    start = time.process_time()
    prepare.build(
        "videos", folder / "in", folder / "out", size=size, filter_text="none", test_share=0,
        processes=1, progress=False,
    )  # fmt: skip
    built = options.seconds * options.videos / (time.process_time() - start)
    videos = builders.ArrayRecordVideos(folder / "out", "train")
    clips = sources.Clips(videos, 0, FRAMES, sources.View(size, size), CURRICULUM, batch_size=1)

    stored = rate(clips.__getitem__, options.clips)
    sought = rate(lambda i: seek(*choose(paths, 0, i), size), options.clips)
    profile = cProfile.Profile(time.process_time)
    profile.runcall(lambda: [clips[i] for i in range(options.clips)])
    stats = pstats.Stats(profile, stream=io.StringIO()).stats
    total = sum(spent for _, _, spent, _, _ in stats.values())
    shown = sum(s[3] for (_, _, name), s in stats.items() if name == "_shown")
    files = (folder / "out").rglob("*array_record*")
    megabytes = sum(path.stat().st_size for path in files) / 2**20
    length = options.seconds * options.videos
    print(f"{size} pixels, one core:")
    print(f"  {stored:7.1f} clips/s from records, {shown / total:.0%} of it decoding")
    print(
        f"  {sought:7.1f} clips/s by seeking in the mp4; records are {stored / sought:.1f}x as fast"
    )
    print(f"  {megabytes / length:7.2f} MiB per second of video")
    print(f"  {built:7.1f} seconds of video built per second", flush=True)
    if importlib.util.find_spec("torchcodec"):
        other = rate(lambda i: torch_clip(*choose(paths, 0, i), size), options.clips)
        print(f"  {other:7.1f} clips/s by torchcodec; records are {stored / other:.1f}x as fast")
    return stored


if __name__ == "__main__":
    main()
