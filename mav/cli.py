"""The command line: `mav <command>`; `mav --help` lists the commands."""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import sys
import textwrap
from collections.abc import Sequence

from mav import bars
from mav.commands import TABLES, cache_home, evaluate, videos

KNOWN_ERRORS = (ValueError, OSError)  # what bad input raises, each with one clear line


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit status: 0, 2 after bad input, else as the command says."""
    for name in ("stdout", "stderr"):  # closed ones, as a daemon's
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    parser = make_parser()
    options, rest = parser.parse_known_args(argv)
    if rest and not getattr(options, "takes_rest", False):
        parser.error(f"unknown argument {rest[0]}; see mav {options.command} --help")
    options.rest = rest
    try:
        cache_compilations()
        choose_cpu_convolutions()
        with bars.hidden() if getattr(options, "quiet", False) else contextlib.nullcontext():
            status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # who reads has seen enough, as `head`; at the end Python writes again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KNOWN_ERRORS as error:
        lines = str(error).split("\n")
        print(f"mav {options.command}: {lines[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(": ".join([f"mav {options.command}: interrupted", *interrupt.args]), file=sys.stderr)
        return 130


def cache_compilations() -> None:
    """Keeps compiled programs in the user's cache folder, so that the next run starts at once."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def choose_cpu_convolutions() -> None:
    """Keeps JAX 0.10 from its new convolutions on CPUs.

    They take up to four times as long as those of Eigen, which it used before (jax 0.10.2, two
    cores with AVX-512, gradients of kernels at 16 to 64 pixels and 48 to 128 features).
    """
    import jax

    flag = "xla_cpu_experimental_ynn_fusion_type"
    given = os.environ.get("XLA_FLAGS", "")
    if jax.__version_info__[:2] == (0, 10) and flag not in given:
        os.environ["XLA_FLAGS"] = f"{given} --{flag}=LIBRARY_FUSION_TYPE_DOT".strip()


def make_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(
        prog="mav", description="Make-A-Video in JAX: from a sentence to a video."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n{textwrap.indent(example, '  ')}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "sample",
        videos.sample,
        "make a video of a sentence",
        'mav sample "a red ball over a green meadow" --out ball.mp4 --seed 1',
    )
    sub.add_argument("prompt", nargs="?", help="what should be seen")
    sub.add_argument(
        "--then", action="append", default=[], metavar="PROMPT", help="what follows in a long video"
    )
    sub.add_argument("--negative", metavar="PROMPT", help="what should not be seen")
    sub.add_argument(
        "--mix",
        action="append",
        type=_mixed,
        default=[],
        metavar="WHAT=SHARE",
        help="another prompt, or an image file, and the share of it that is seen; may be repeated",
    )
    sub.add_argument("--image", action="store_true", help="make an image: .png, .jpg or .webp")
    sub.add_argument("--filter", action="store_true", help="refuse toxic words; needs mav[data]")
    sub.add_argument("--like", metavar="FILE", help="as a file of mav says that it was made")
    _add_sampling(sub, length=True)

    sub = command(
        "animate", videos.animate, "make a video of an image", "mav animate photo.png --seed 1"
    )
    sub.add_argument("picture", help="an image, the first frame")
    _add_sampling(sub, length=True)
    sub = command("tween", videos.tween, "lead from one image to another", "mav tween a.png b.png")
    sub.add_argument("first", help="an image, the first frame")
    sub.add_argument("last", help="an image, the last frame")
    _add_sampling(sub)
    sub = command(
        "vary", videos.vary, "make another video of what a video shows", "mav vary clip.mp4"
    )
    sub.add_argument("video", help="a video file, or a folder of PNGs")
    _add_sampling(sub, length=True)
    sub = command("extend", videos.extend, "make a video longer", "mav extend clip.mp4 --seconds 4")
    sub.add_argument("video", help="a video file, or a folder of PNGs")
    sub.add_argument("--seconds", type=float, default=4.0, help="that are added (4)")
    sub.add_argument("--before", action="store_true", help="add them before its beginning")
    _add_sampling(sub)
    sub = command(
        "smooth",
        videos.smooth,
        "put new frames between the frames of a video",
        "mav smooth clip.mp4 --frame_skip 3 --size 256",
    )
    sub.add_argument("video", help="a video file, or a folder of PNGs")
    _add_sampling(sub)
    sub = command("upscale", videos.upscale, "enlarge a video", "mav upscale clip.mp4 --size 768")
    sub.add_argument("video", help="a video file, or a folder of PNGs")
    _add_sampling(sub)
    sub = command("show", videos.show, "print how a file of mav was made", "mav show ball.mp4")
    sub.add_argument("file", help="video or image")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub = command("app", app, "open a page for the browser; needs mav[app]", "mav app --port 7860")
    sub.add_argument("--cascade", help="shipped name or folder (cutout)")
    sub.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (127.0.0.1)"
    )
    sub.add_argument("--port", type=int, help="(the first that is free from 7860 on)")

    sub = command(
        "train",
        train,
        "train one stage",
        "mav train --config configs/decoder.py:cutout,video --workdir runs/decoder \\\n"
        "    --config.clip=runs/clip --config.init=runs/decoder_image",
    )
    sub.add_argument("--config", required=True, help="config file, :size,phase behind it")
    sub.add_argument("--workdir", required=True, help="folder of checkpoints and logs")
    several = "of a run of several processes, where no launcher tells"
    sub.add_argument("--coordinator", help=f"host:port of the first process, {several}")
    sub.add_argument("--num_processes", type=int, help=several)
    sub.add_argument("--process_id", type=int, help=f"0 for the first, {several}")
    sub.set_defaults(takes_rest=True)

    sub = command(
        "export",
        export,
        "turn finished runs into a cascade folder",
        "mav export runs/decoder cascades/mine --dtype float16",
    )
    sub.add_argument("workdir", nargs="+", help="folders of training runs, one per stage")
    sub.add_argument("cascade", help="cascade folder; made or added to")
    kinds = ("float32", "float16")
    sub.add_argument("--dtype", choices=kinds, default="float32", help="of the files (float32)")
    sub.add_argument("--settings", help="JSON file of sampling settings for a new cascade")

    sub = command(
        "evaluate",
        evaluate.run,
        "measure a cascade by a protocol",
        "mav evaluate --protocol cutout --out runs/evaluation",
    )
    names = ("cutout", "ucf101", "msrvtt")
    sub.add_argument("--protocol", choices=names, required=True, help="what is measured")
    sub.add_argument("--cascade", help="shipped name or folder (cutout: the shipped one)")
    sub.add_argument("--out", required=True, help="folder of the report")
    sub.add_argument("--num_prompts", type=int, help="(cutout 96, ucf101 10000, msrvtt all)")
    sub.add_argument("--size", type=int, help="64, 256 or 768 pixels (cutout 64, others 256)")
    sub.add_argument("--frames", type=int, help="(cutout 76, others 16)")
    sub.add_argument("--seed", type=int, help="of the first prompt (0)")
    text = "cutout: real clips by which each stage is measured alone, 0: none is (20)"
    sub.add_argument("--clips", type=int, help=text)
    _add_quiet(sub)
    _add_tables(sub)
    _add_papers(sub.add_argument_group("ucf101 and msrvtt (docs/evaluation.md)"))

    sub = command(
        "bench",
        bench,
        "time a stage's forward pass and training step",
        "mav bench --config configs/decoder.py:cutout,video --config.data.batch_size=2",
    )
    sub.add_argument("--config", required=True, help="config file, :size,phase behind it")
    sub.set_defaults(takes_rest=True)

    sub = command(
        "plan",
        plan,
        "tell whether a stage fits on a TPU slice, and how fast it could be, without the slice",
        "mav plan --config configs/decoder.py:paper,video --topology v5e:16x16 \\\n"
        "    --mesh data=4,fsdp=64 --batch_size 256",
    )
    sub.add_argument("--config", required=True, help="config file, :size,phase behind it")
    sub.add_argument("--topology", required=True, help="chip and shape: v4, v5e, v5p or v6e")
    sub.add_argument("--mesh", help="lengths of data, fsdp, tensor and context")
    sub.add_argument("--batch_size", type=int, help="examples on all chips")
    sub.add_argument("--sample", action="store_true", help="a step of the sampler, not of training")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(takes_rest=True)

    convert = commands.add_parser("convert", help="turn released weights into files of mav")
    kinds = convert.add_subparsers(dest="kind", required=True, metavar="kind")
    sub = kinds.add_parser(
        "unclip",
        help="turn an unCLIP pipeline of diffusers, such as Karlo, into a cascade folder",
        epilog="example:\n  mav convert unclip karlo-v1-alpha cascades/karlo \\\n"
        "      --image_encoder karlo-v1-alpha-image-variations",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("source", help="the pipeline's folder, with model_index.json")
    sub.add_argument("cascade", help="cascade folder to be made")
    sub.add_argument("--image_encoder", help="folder of CLIP's image tower, to train on videos")
    sub.set_defaults(run=convert_unclip)
    for name, (what, released) in JUDGES.items():
        sub = kinds.add_parser(
            name,
            help=what,
            epilog=f"example:\n  mav convert {name} {released} {name}.safetensors",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.add_argument("source", help="released file: .pth, .pt, .npz, .flax or .safetensors")
        sub.add_argument("weights", help=".safetensors file to be made")
        if name == "c3d":
            sub.add_argument("--mean", help="TGANv2's mean2.npz (the one beside the source)")
        sub.add_argument(
            "--torch_python",
            default=sys.executable,
            help="Python that has torch, which alone opens .pth and .pt (this one)",
        )
        sub.set_defaults(run=convert_judge)

    data = commands.add_parser("data", help="build data sets, and look at them").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    builds = data.add_parser("build", help="write a data set as array_record").add_subparsers(
        dest="name", required=True, metavar="name"
    )
    for name in ("cutout_images", "cutout_videos"):
        build = builds.add_parser(name, help="write a data set of the cutout world")
        build.add_argument("directory", help="folder, in which one of the set's name is made")
        build.add_argument("--size", type=int, default=64, help="pixels (64)")
        build.add_argument("--num_train", type=int, help="examples; a small number if left out")
        build.add_argument("--num_test", type=int, help="likewise, of the split test")
        build.set_defaults(run=build_cutout)
    for name, what in (("videos", "videos"), ("images", "captioned images")):
        build = builds.add_parser(
            name,
            help=f"write a data set of your {what}",
            epilog=f"example:\n  mav data build {name} SRC data/mine --size 256\n  docs/data.md",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        build.add_argument("source", help="folder, tar, CSV, JSONL, parquet, or 'shards/*.tar'")
        build.add_argument("destination", help="folder to be made")
        build.add_argument("--format", help="what the source is, where it cannot be told")
        build.add_argument("--media", help="folder of the files that a list names (the list's)")
        build.add_argument(
            "--columns",
            action="append",
            type=_pair,
            default=[],
            metavar="ROLE=NAME",
            help="column of a list, like caption=TEXT; may be repeated",
        )
        build.add_argument("--size", type=int, default=64, help="shorter side in pixels (64)")
        build.add_argument("--encoding", default="jpeg", help="of pictures: jpeg, or png (exact)")
        build.add_argument(
            "--filters", help="like size,nsfw=0.3, which then must have scores; none; or all"
        )
        build.add_argument("--test_share", type=float, default=0.01, help="of files (0.01)")
        build.add_argument(
            "--max_failed", type=float, default=0.1, help="damaged share with status 0 (0.1)"
        )
        build.add_argument("--processes", type=int, help="one per core if left out")
        _add_quiet(build)
        build.add_argument(
            "--beam_runner", help="like DirectRunner; more options of Beam may follow"
        )
        build.set_defaults(run=build_data, takes_rest=True)
    inspect = data.add_parser(
        "inspect",
        help="show samples and histograms of a data set",
        epilog="example:\n  mav data inspect data/mine",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument("folder", help="data set that mav data build made")
    inspect.add_argument("--out", help="folder of inspect.png and inspect.html (the data set's)")
    inspect.add_argument("--split", default="train", help="train or test (train)")
    inspect.set_defaults(run=inspect_data)
    return parser


JUDGES = dict(  # networks that metrics are measured with, and a file they were released in
    inception=("the network of FID", "pt_inception-2015-12-05-6726825d.pth"),
    i3d=("the network of FVD", "i3d_pretrained_400.pt"),
    c3d=("the network of videos' Inception Score", "conv3d_deepnetA_ucf.npz"),
)


def _add_quiet(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_sampling(sub: argparse.ArgumentParser, length: bool = False) -> None:
    """Options of all commands that sample. length: whether one chooses how many frames."""
    sub.add_argument("--cascade", help="shipped name or folder (cutout)")
    sub.add_argument(
        "--out", help=".mp4, .gif, .webp, .npz, or a new folder for PNGs; named after the input"
    )
    sub.add_argument("--seed", type=int, help="other seeds, other videos (0)")
    sub.add_argument("--num", type=int, default=1, help="how many, seeds counting up; and a grid")
    sub.add_argument("--mark", action="store_true", help='write "AI-generated" into the pictures')
    sub.add_argument(
        "--preview",
        action="store_true",
        help="meanwhile, a picture of what is coming, OUT-preview.png",
    )
    sub.add_argument("--json", action="store_true", help="print what was written as JSON")
    _add_quiet(sub)
    sub.add_argument(
        "--fps", type=float, help="frames per second of the decoder's 16: fewer move more"
    )
    sub.add_argument(
        "--still_fps", type=float, help="fps at which nothing moves, from which guidance leads away"
    )
    sub.add_argument("--frame_skip", type=int, help="output frames per decoder frame")
    sub.add_argument("--size", type=int, help="64, 256 or 768 pixels")
    if length:
        sub.add_argument(
            "--frames", type=int, help="16, or 17 or more, which are interpolated (76)"
        )
        sub.add_argument("--seconds", type=float, help="instead of --frames")
    sub.add_argument("--overlap", type=int, help="frames from which a long video goes on (4)")
    sub.add_argument("--chunk", type=int, help="frames that sr_768 takes at once: memory (4)")
    sub.add_argument("--dtype", default="float32", help="float32, or bfloat16 on accelerators")
    sub.add_argument("--mesh", help="divide each video over devices, like context=8")
    _add_tables(sub)


def _add_papers(group) -> None:
    """Options of the protocols of papers."""
    group.add_argument("--videos", help="instead of --cascade, a folder of generated videos")
    group.add_argument("--fps", type=float, help="frames per second of the cascade's videos")
    group.add_argument("--real", help="folder of UCF-101; test_videodatainfo.json of MSR-VTT")
    group.add_argument("--captions", help="msrvtt: that JSON, where --statistics stand for --real")
    group.add_argument("--media", help="folder of MSR-VTT's videos (that of the JSON)")
    group.add_argument("--real_split", help="ucf101: train, test or all (train)")
    group.add_argument("--real_fps", type=float, help="of real clips (the file's own)")
    group.add_argument("--which", help="frames of longer videos: middle or first (middle)")
    group.add_argument("--fid_frames", help="frames of a clip in FID: all or middle (all)")
    group.add_argument("--statistics", help="folder to keep features of real clips in (a cache)")
    for network in ("i3d", "c3d", "inception"):
        group.add_argument(f"--{network}", metavar="FILE", help="its weights")
    group.add_argument("--clip", metavar="FOLDER", help="of transformers, or CASCADE/clip")
    group.add_argument("--rehearsal", action="store_true", help="ten videos, end to end")
    group.add_argument("--dtype", help="in which the cascade computes (float32)")
    group.add_argument("--mesh", help="devices of networks and cascade, like data=8")
    group.add_argument("--num_processes", type=int, help="how many share the work (1)")
    group.add_argument("--process_id", type=int, help="which of them this is, from 0")


def _add_tables(sub: argparse.ArgumentParser) -> None:
    """Settings by stage."""
    for table, (kind, example) in TABLES.items():
        sub.add_argument(
            f"--{table}",
            action="append",
            type=_entry(kind, example),
            default=[],
            metavar="STAGE=VALUE",
            help=f"{table} of a stage, like decoder={example}; may be repeated",
        )


def _entry(kind, example: str):
    """Parses "stage=value", or "value", which is the decoder's."""

    def parse(text: str):
        stage, separator, value = text.rpartition("=")
        try:
            return (stage if separator else "decoder"), kind(value)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not of the form decoder={example}"
            ) from None

    return parse


def _mixed(text: str) -> tuple[str, float]:
    """Parses "what=share"."""
    what, _, share = text.rpartition("=")
    try:
        return what, float(share)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form photo.png=0.5") from None


def _pair(text: str) -> tuple[str, str]:
    """Parses "role=name"."""
    role, separator, name = text.partition("=")
    if not (role and separator and name):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form role=name")
    return role, name


def app(options: argparse.Namespace) -> None:
    """`mav app`. Returns when Ctrl-C or SIGTERM ends it."""
    try:
        from mav import app as app_lib
    except ImportError as error:
        raise ValueError(f"this needs {error.name}: pip install 'mav[app]'.") from error
    from mav import cascade as cascade_lib

    named = options.cascade or "cutout"
    page = app_lib.launch(cascade_lib.load(named), named, options.host, options.port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"{page.local_url} is open until Ctrl-C", flush=True)
    page.block_thread()


def train(options: argparse.Namespace) -> int:
    """`mav train`. Returns 143, as of what SIGTERM ended, if steps are left: so launchers know."""
    import jax

    from mav import processes
    from mav.commands import config_files

    config = config_files.read(options.config, options.rest)
    processes.join(options.coordinator, options.num_processes, options.process_id)
    silence_tensorflow()
    from mav import train as train_lib

    try:
        step = train_lib.run(config, options.workdir)
    except Exception as error:
        if reason := processes.lost(error):
            raise OSError(
                f"another process of this run is gone ({reason[:200]}); start all of them again, "
                "and they go on from the newest checkpoint."
            ) from error
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in reason:
            raise OSError(
                f"the devices' memory does not suffice ({reason}); see what `mav plan` says, set "
                "remat=blocks, raise microbatches, or divide the state by mesh.fsdp."
            ) from error
        raise
    if step == config.num_steps:
        return 0
    print(f"saved and ended at step {step} of {config.num_steps}; the same command goes on")
    return 143


def silence_tensorflow() -> None:
    """Keeps TensorFlow, which only writes the curves, from talking about its kernels."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def export(options: argparse.Namespace) -> None:
    """`mav export`."""
    from mav import export as export_lib

    export_lib.run(options.workdir, options.cascade, options.dtype, options.settings)
    print(options.cascade)


def bench(options: argparse.Namespace) -> None:
    """`mav bench`."""
    from mav import bench as bench_lib
    from mav.commands import config_files

    config = config_files.read(options.config, options.rest)
    bench_lib.run(config, config_files.read_clip(options.config))


def plan(options: argparse.Namespace) -> None:
    """`mav plan`."""
    from mav import plan as plan_lib
    from mav import sharding
    from mav.commands import config_files

    config = config_files.read(options.config, options.rest)
    if options.mesh is not None:
        config.mesh = dict(data=1, fsdp=1, tensor=1, context=1) | sharding.parse_mesh(options.mesh)
    if options.batch_size is not None:
        config.data.batch_size = options.batch_size
    clip_config = config_files.read_clip(options.config)
    report = plan_lib.run(
        config, clip_config, options.topology, options.sample, cache_home() / "plans"
    )
    print(json.dumps(report.to_json(), indent=2) if options.json else plan_lib.show(report))


def convert_unclip(options: argparse.Namespace) -> None:
    """`mav convert unclip`."""
    from mav.convert import unclip

    unclip.run(options.source, options.cascade, options.image_encoder)


def convert_judge(options: argparse.Namespace) -> None:
    """`mav convert inception | i3d | c3d`."""
    from mav.convert import features

    mean = getattr(options, "mean", None)
    features.run(options.kind, options.source, options.weights, mean, options.torch_python)


def build_cutout(options: argparse.Namespace) -> None:
    """`mav data build cutout_images | cutout_videos`."""
    from mav.data import builders

    builders.build(
        options.name, options.directory, options.num_train, options.num_test, options.size
    )


def build_data(options: argparse.Namespace) -> int:
    """`mav data build videos | images`. Returns 1 if too many records are damaged."""
    if options.rest and options.beam_runner is None:
        raise ValueError(f"unknown argument {options.rest[0]}; see mav data build --help")
    if options.processes is not None and options.processes < 1:
        raise ValueError(f"processes={options.processes} must be at least 1.")
    from mav.data import prepare

    beam = None
    if options.beam_runner is not None:
        beam = [f"--runner={options.beam_runner}", *options.rest]
    good = prepare.build(
        options.name,
        options.source,
        options.destination,
        format=options.format,
        media_folder=options.media,
        columns=dict(options.columns),
        size=options.size,
        encoding=options.encoding,
        filter_text=options.filters,
        test_share=options.test_share,
        max_failed=options.max_failed,
        processes=options.processes,
        beam=beam,
    )
    return 0 if good else 1


def inspect_data(options: argparse.Namespace) -> None:
    """`mav data inspect`."""
    from mav.data import inspection

    out = pathlib.Path(options.out or options.folder)
    inspection.run(options.folder, out, options.split)
    print(out / "inspect.png")
    print(out / "inspect.html")


if __name__ == "__main__":
    sys.exit(main())
