"""What commands do that make videos or measure them; `mav.cli` reads their options."""

import argparse
import os
import pathlib


def cache_home() -> pathlib.Path:
    """Where this user's programs keep what they can make again."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "mav"


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


def tables(options: argparse.Namespace) -> dict:
    """The settings by stage that options name."""
    return {name: dict(getattr(options, name)) for name in TABLES if getattr(options, name)}


def given(options: argparse.Namespace, *names: str, **renamed: str) -> dict:
    """Those options that were given. renamed: what an option is called here."""
    sources = dict(zip(names, names, strict=True)) | renamed
    found = {name: getattr(options, source) for name, source in sources.items()}
    return {name: value for name, value in found.items() if value is not None}
