"""The command line: `mav sample | train | export | convert | evaluate | bench | plan | data`."""

import argparse
import json
import math
import os
import pathlib
import sys
import textwrap
from collections.abc import Sequence

KNOWN_ERRORS = (ValueError, OSError)  # what bad input raises, each with one clear line


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit status: 0, 2 after bad input, else as the command says."""
    parser = make_parser()
    options, rest = parser.parse_known_args(argv)
    if rest and not getattr(options, "takes_rest", False):
        parser.error(f"unknown argument {rest[0]}; see mav {options.command} --help")
    options.rest = rest
    try:
        cache_compilations()
        choose_cpu_convolutions()
        return options.run(options) or 0
    except KNOWN_ERRORS as error:
        lines = str(error).split("\n")
        print(f"mav {options.command}: {lines[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mav {options.command}: interrupted", file=sys.stderr)
        return 130


def cache_compilations() -> None:
    """Keeps compiled programs in the user's cache folder, so that the next run starts at once."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def cache_home() -> pathlib.Path:
    """Where this user's programs keep what they can make again."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "mav"


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
        sample,
        "make a video of a sentence",
        'mav sample "a red ball over a green meadow" --out ball.mp4 --seed 1',
    )
    sub.add_argument("prompt", help="what should be seen")
    sub.add_argument("--cascade", default="cutout", help="shipped name or folder (cutout)")
    sub.add_argument("--out", help=".mp4, .gif or .webp; named after the prompt if left out")
    sub.add_argument("--seed", type=int, default=0, help="other seeds, other videos (0)")
    sub.add_argument("--num", type=int, default=1, help="how many videos, seeds counting up (1)")
    sub.add_argument(
        "--fps", type=float, help="frames per second of the decoder's 16: fewer move more"
    )
    sub.add_argument("--frame_skip", type=int, help="output frames per decoder frame")
    sub.add_argument("--size", type=int, help="64, 256 or 768 pixels")
    sub.add_argument("--frames", type=int, help="16 or 76")
    sub.add_argument("--image", action="store_true", help="make an image: .png, .jpg or .webp")
    sub.add_argument("--dtype", default="float32", help="float32, or bfloat16 on accelerators")
    sub.add_argument("--mesh", help="divide each video over devices, like context=8")
    for table, (kind, example) in TABLES.items():
        sub.add_argument(
            f"--{table}",
            action="append",
            type=_entry(kind, example),
            default=[],
            metavar="STAGE=VALUE",
            help=f"{table} of a stage, like decoder={example}; may be repeated",
        )

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
    sub.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    sub.add_argument("--settings", help="JSON file of sampling settings for a new cascade")

    sub = command(
        "evaluate",
        evaluate,
        "measure a cascade by a protocol",
        "mav evaluate --protocol cutout --out runs/evaluation",
    )
    sub.add_argument("--protocol", choices=("cutout",), required=True)
    sub.add_argument("--cascade", default="cutout", help="shipped name or folder (cutout)")
    sub.add_argument("--out", required=True, help="folder of the report")
    sub.add_argument("--num_prompts", type=int, default=96)
    sub.add_argument("--size", type=int, default=64, help="64, 256 or 768 pixels (64)")
    sub.add_argument("--frames", type=int, default=76, help="16 or 76 (76)")
    sub.add_argument("--seed", type=int, default=0)

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

    convert = commands.add_parser("convert", help="turn released weights into a cascade folder")
    kinds = convert.add_subparsers(dest="kind", required=True, metavar="kind")
    sub = kinds.add_parser(
        "unclip",
        help="an unCLIP pipeline of diffusers, such as Karlo",
        epilog="example:\n  mav convert unclip karlo-v1-alpha cascades/karlo \\\n"
        "      --image_encoder karlo-v1-alpha-image-variations",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("source", help="the pipeline's folder, with model_index.json")
    sub.add_argument("cascade", help="cascade folder to be made")
    sub.add_argument("--image_encoder", help="folder of CLIP's image tower, to train on videos")
    sub.set_defaults(run=convert_unclip)

    data = commands.add_parser("data", help="build data sets, and look at them").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    builds = data.add_parser("build", help="write a data set as array_record").add_subparsers(
        dest="name", required=True, metavar="name"
    )
    for name in ("cutout_images", "cutout_videos"):
        build = builds.add_parser(name, help="of the cutout world")
        build.add_argument("directory")
        build.add_argument("--size", type=int, default=64, help="pixels (64)")
        build.add_argument("--num_train", type=int, help="examples; a small number if left out")
        build.add_argument("--num_test", type=int)
        build.set_defaults(run=build_cutout)
    for name, what in (("videos", "of your videos"), ("images", "of your captioned images")):
        build = builds.add_parser(
            name,
            help=what,
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


def _interval(text: str) -> tuple[float, float]:
    low, high = text.split(",")
    return float(low), float(high)


TABLES = dict(  # settings by stage: how a value is read, and what one looks like
    steps=(int, "25"),
    sampler=(str, "unipc"),
    spacing=(str, "linspace"),
    guidance_scale=(float, "4"),
    guidance_interval=(_interval, "0.2,0.9"),
    guidance_rescale=(float, "0.7"),
    dynamic_threshold=(float, "0.995"),
    aug_level=(int, "50"),
    candidates=(int, "4"),
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


def _pair(text: str) -> tuple[str, str]:
    """Parses "role=name"."""
    role, separator, name = text.partition("=")
    if not (role and separator and name):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form role=name")
    return role, name


def sample(options: argparse.Namespace) -> None:
    """`mav sample`."""
    import numpy as np

    from mav import cascade as cascade_lib
    from mav import media, sharding

    if options.num < 1:
        raise ValueError(f"num={options.num} must be at least 1.")
    plain = ("fps", "frame_skip", "size", "frames")
    changes = {name: getattr(options, name) for name in plain if getattr(options, name) is not None}
    changes |= {name: dict(getattr(options, name)) for name in TABLES if getattr(options, name)}
    if options.image and options.frames is not None:
        raise ValueError(f"frames={options.frames} does not go with --image, which has one.")
    if options.image:
        changes["frames"] = 1
    out = pathlib.Path(
        options.out or f"{slug(options.prompt)}{'.png' if options.image else '.mp4'}"
    )
    paths = [out.with_stem(f"{out.stem}-{i + 1}") for i in range(options.num)]
    paths = paths if options.num > 1 else [out]
    sheet_path = out.with_suffix(".png") if options.num > 1 or not options.image else None
    for path in paths:
        media.check_writable(path, media.STILLS if options.image else media.MAX_FPS)
    if sheet_path is not None:
        media.check_writable(sheet_path)
    mesh = sharding.make_mesh(sharding.parse_mesh(options.mesh)) if options.mesh else None
    cascade = cascade_lib.load(options.cascade, options.dtype, mesh)
    settings = cascade.check(changes)
    if settings.frames == 1 and not options.image:
        raise ValueError("frames=1 makes an image; say so with --image.")
    for remark in cascade.remarks(options.prompt):
        print(f"warning: {remark}", file=sys.stderr)

    kept = []
    for i, path in enumerate(paths):
        shown = []
        metadata = dict(prompt=options.prompt, seed=str(options.seed + i), cascade=cascade.name)
        pieces = cascade.stream(options.prompt, options.seed + i, **changes)
        if options.image:
            image = next(pieces)[0]
            media.write_image(path, image, metadata)
            shown = [image]
        else:
            with media.VideoWriter(path, cascade.output_fps(settings), metadata) as writer:
                for piece in pieces:
                    writer.append(piece)
                    shown += [media.resize(frame[None], 192)[0] for frame in piece]
        kept.append(np.stack(shown))
        print(path)
    if sheet_path is None:
        return
    if options.image:
        sheet = media.grid(np.concatenate(kept), columns=math.ceil(math.sqrt(len(kept))))
    else:
        labels = [options.prompt] * len(kept)
        sheet = media.contact_sheet(kept, columns=4, frames=16, labels=labels)
    media.write_image(sheet_path, sheet)
    print(sheet_path)


def slug(prompt: str) -> str:
    """A file name made of a prompt."""
    from mav import tokenizer

    return "-".join(tokenizer.words(prompt))[:60] or "video"


def train(options: argparse.Namespace) -> int:
    """`mav train`. Returns 143, as of what SIGTERM ended, if steps are left: so launchers know."""
    import jax

    from mav import processes

    config = read_config(options.config, options.rest)
    processes.join(options.coordinator, options.num_processes, options.process_id)
    silence_tensorflow()
    from mav import train as train_lib

    try:
        step = train_lib.run(config, options.workdir)
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        if "RESOURCE_EXHAUSTED" in reason:
            raise OSError(
                f"the devices' memory does not suffice ({reason}); see what `mav plan` says, set "
                "remat=blocks, raise microbatches, or divide the state by mesh.fsdp."
            ) from error
        if jax.process_count() == 1:
            raise
        raise OSError(
            f"another process of this run is gone ({reason}); start all of them again, and they "
            "go on from the newest checkpoint."
        ) from error
    if step == config.num_steps:
        return 0
    print(f"saved and ended at step {step} of {config.num_steps}; the same command goes on")
    return 143


def silence_tensorflow() -> None:
    """Keeps TensorFlow, which only writes the curves, from talking about its kernels."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def read_config(path: str, overrides: Sequence[str]):
    """A config file's config with `--config.key=value` applied.

    Raises ValueError for a missing file, unknown key or value of the wrong type.
    """
    from absl import flags
    from ml_collections import config_flags

    file = pathlib.Path(path.partition(":")[0])
    if not file.is_file():
        raise ValueError(f"config file {file} does not exist.")
    sys.path.insert(0, str(file.resolve().parent.parent))  # configs import each other
    values = flags.FlagValues()
    arguments = ["mav", f"--config={path}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"config {path}: {str(error).strip().splitlines()[-1]}") from error
    return values.config


def export(options: argparse.Namespace) -> None:
    """`mav export`."""
    from mav import export as export_lib

    export_lib.run(options.workdir, options.cascade, options.dtype, options.settings)
    print(options.cascade)


def evaluate(options: argparse.Namespace) -> None:
    """`mav evaluate`."""
    from mav import cascade as cascade_lib
    from mav.evaluate import cutout

    cascade = cascade_lib.load(options.cascade)
    cutout.run(
        cascade,
        options.out,
        num_prompts=options.num_prompts,
        size=options.size,
        frames=options.frames,
        seed=options.seed,
    )


def bench(options: argparse.Namespace) -> None:
    """`mav bench`."""
    from mav import bench as bench_lib

    config = read_config(options.config, options.rest)
    bench_lib.run(config, read_clip_config(options.config))


def read_clip_config(path: str):
    """The config of CLIP that lies beside another stage's, in its size."""
    file, _, argument = path.partition(":")
    return read_config(
        f"{pathlib.Path(file).with_name('clip.py')}:{argument.partition(',')[0]}", []
    )


def plan(options: argparse.Namespace) -> None:
    """`mav plan`."""
    from mav import plan as plan_lib
    from mav import sharding

    config = read_config(options.config, options.rest)
    if options.mesh:
        config.mesh = dict(data=1, fsdp=1, tensor=1, context=1) | sharding.parse_mesh(options.mesh)
    if options.batch_size:
        config.data.batch_size = options.batch_size
    clip_config = read_clip_config(options.config)
    report = plan_lib.run(
        config, clip_config, options.topology, options.sample, cache_home() / "plans"
    )
    print(json.dumps(report.to_json(), indent=2) if options.json else plan_lib.show(report))


def convert_unclip(options: argparse.Namespace) -> None:
    """`mav convert unclip`."""
    from mav.convert import unclip

    unclip.run(options.source, options.cascade, options.image_encoder)


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
