"""Config files as commands are given them: `configs/decoder.py:cutout,video`, and changes."""

import pathlib
import re
import runpy
import sys
import traceback
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags


def read(path: str, overrides: Sequence[str]) -> ConfigDict:
    """A config file's config with `--config.key=value` applied.

    Raises ValueError for a missing or faulty file, unknown key, value of the wrong type, or what is
    no change of the config.
    """
    config = _run(path)
    _check_keys(path, config, overrides)
    values, arguments = flags.FlagValues(), ["mav", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        rest = values(arguments)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"config {path}: {str(error).strip().splitlines()[-1]}") from error
    if rest:
        raise ValueError(
            f"unknown argument {rest[0]}; a change of the config is written --config.key=value."
        )
    return values.config


def read_clip(path: str) -> ConfigDict:
    """The config of CLIP that lies beside another stage's, in its size."""
    file, _, argument = path.partition(":")
    return read(f"{pathlib.Path(file).with_name('clip.py')}:{argument.partition(',')[0]}", [])


def _run(path: str) -> ConfigDict:
    """What `get_config` of a config file returns, which gets what stands behind the colon."""
    name, colon, argument = path.partition(":")
    file = pathlib.Path(name)
    if not file.is_file():
        raise ValueError(f"config file {file} does not exist.")
    sys.path.insert(0, str(file.resolve().parent.parent))  # configs import each other
    try:
        get_config = runpy.run_path(str(file)).get("get_config")
        config = get_config and get_config(*[argument] if colon else [])
    except SyntaxError as error:
        raise ValueError(f"config {path}: {error.filename}:{error.lineno}: {error.msg}.") from error
    except ValueError as error:  # what a config says of its argument
        raise ValueError(f"config {path}: {error}") from error
    except Exception as error:
        here = lambda frame: pathlib.Path(frame.filename).resolve().parent == file.resolve().parent
        own = list(filter(here, traceback.extract_tb(error.__traceback__)))
        place = f"{own[-1].filename}:{own[-1].lineno}" if own else file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"config {path}: {place}: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"config file {file} has no get_config that returns a ConfigDict.")
    return config


def _check_keys(path: str, config: ConfigDict, overrides: Sequence[str]) -> None:
    """Raises ValueError if `--config.key=value` names a key that the config does not have."""
    for word in overrides:
        change = re.match(r"--?(no)?config\.([^=]+)", word)
        if change is None:
            continue
        key, table, where = change[2], config, "it"
        for name in key.split("."):
            name = name.partition("[")[0]  # of a value in a tuple
            if not isinstance(table, ConfigDict):
                raise ValueError(f"config {path} has no key {key}; {where} is a value, {table!r}.")
            if name not in table:
                known = ", ".join(table)
                raise ValueError(f"config {path} has no key {key}; {where} has {known}.")
            table, where = table[name], name
