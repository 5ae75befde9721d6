"""`mav evaluate`."""

import argparse
import pathlib
import sys
from collections.abc import Iterable

from mav import cascade as cascade_lib
from mav import folders, sharding
from mav.commands import TABLES, cache_home, given, tables

PAPERS = (  # the options of `_add_papers`
    "videos", "fps", "real", "captions", "media", "real_split", "real_fps", "which", "fid_frames",
    "statistics", "i3d", "c3d", "inception", "clip", "rehearsal", "dtype", "mesh", "num_processes",
    "process_id",
)  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """`mav evaluate`."""
    if options.protocol != "cutout":
        _evaluate_papers(options)
        return
    from mav.evaluate import cutout

    _refuse(options, PAPERS, "belongs to the protocols ucf101 and msrvtt, not to cutout")
    named = options.cascade or "cutout"
    cascade, checksum = cascade_lib.load(named), folders.checksum(named)
    asked = given(options, "num_prompts", "size", "frames", "seed", "clips")
    cutout.run(cascade, options.out, checksum=checksum, **asked, **tables(options))


def _refuse(options: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """Raises ValueError if one of these was given."""
    for name in names:
        if getattr(options, name) not in (None, False, []):
            raise ValueError(f"--{name} {why}.")


def _evaluate_papers(options: argparse.Namespace) -> None:
    """`mav evaluate --protocol ucf101 | msrvtt`."""
    if options.clips is not None:
        raise ValueError("--clips belongs to the protocol cutout, not to ucf101 and msrvtt.")
    try:
        from mav.evaluate import clips, msrvtt, protocol, ucf101
    except ImportError as error:
        raise ValueError(f"this needs {error.name}: pip install 'mav[evaluate]'.") from error

    of_ucf101 = options.protocol == "ucf101"
    chosen = ucf101.PROTOCOL if of_ucf101 else msrvtt.PROTOCOL
    weights = {name: getattr(options, name) for name in protocol.OUTPUTS}
    how = protocol.Options(
        rehearsal=options.rehearsal,
        **given(options, "fid_frames", process="process_id", processes="num_processes"),
    )
    view = clips.View(**given(options, "frames", "size", "which", fps="real_fps"))
    protocol.check(chosen, weights, view)
    how.check()
    if (options.cascade is None) == (options.videos is None):
        raise ValueError("name what is measured: either --cascade or --videos.")
    if options.videos is not None:
        names = ("fps", "dtype", "seed", "captions", *TABLES)
        _refuse(options, names, "belongs to --cascade, not to --videos")
    if options.real is None:
        _refuse(options, ("media", "real_split"), "belongs to --real, which is not given")
    others = ("media", "captions") if of_ucf101 else ("real_split",)
    _refuse(options, others, f"does not belong to {chosen.name}")
    num = protocol.REHEARSAL if options.rehearsal else options.num_prompts
    if num is not None and num < 2:
        raise ValueError(f"num_prompts={num} must be at least 2.")
    mesh = sharding.make_mesh(sharding.parse_mesh(options.mesh)) if options.mesh else None

    real = None
    if options.real is not None and of_ucf101:
        split = options.real_split or "train"
        real = ucf101.real(options.real, split, view, partial=options.rehearsal)
    elif options.real is not None:
        real = msrvtt.real(options.real, options.media, view, partial=options.rehearsal)
    elif options.statistics is None:
        raise ValueError("name the real videos by --real, or --statistics of them.")
    statistics = options.statistics
    below_out = pathlib.Path(options.out) / "features" / "real"
    if real is not None and options.rehearsal:
        real, statistics = real.chosen(min(num, len(real))), below_out
    elif how.processes > 1:  # whose machines need not have a cache in common
        statistics = statistics or below_out

    if options.videos is not None:
        generated = clips.of_folder(options.videos, view)
        if num is not None:
            generated = generated.chosen(min(num, len(generated)) if options.rehearsal else num)
    else:
        if of_ucf101:
            prompts = ucf101.prompts(chosen.samples if num is None else num)
        elif options.captions is None and options.real is None:
            raise ValueError("name test_videodatainfo.json, which has the captions, by --captions.")
        else:
            prompts = msrvtt.prompts(options.captions or options.real, num)
        cascade = cascade_lib.load(options.cascade, options.dtype or "float32", mesh)
        settings = given(options, "fps") | tables(options)
        if options.rehearsal:  # the sooner it is over, the better
            few = dict.fromkeys(cascade.settings.steps, protocol.REHEARSAL_STEPS)
            settings["steps"] = few | settings.get("steps", {})
        checksum, seed = folders.checksum(options.cascade), options.seed or 0
        generated = clips.of_cascade(cascade, checksum, prompts, view, seed, settings)

    report = protocol.run(
        chosen,
        protocol.load(weights, mesh),
        generated,
        real,
        options.out,
        statistics or cache_home() / "evaluation",
        view,
        options=how,
        keyed=statistics is None,
    )
    if report is None:
        print("other processes are not done; the last one writes the report, or this command again")
        return
    for reason in report["real"]["left_out"]:
        print(f"warning: left out: {reason}", file=sys.stderr)
    for line in protocol.lines(report):
        print(line)
    for name in ("report.md", "report.json", "sheet.png"):
        print(pathlib.Path(options.out) / name)
