"""Writes docs/cli.md from the commands and docs/configs.md from the configs.

python docs/reference.py      # seconds; tests/test_docs.py fails while a page is behind
"""

import argparse
import ast
import dataclasses
import inspect
import io
import itertools
import json
import pathlib
import re
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

from flax import traverse_util

from mav import cli, diffusion, stages, unet
from mav.commands import config_files

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE.parent / "configs"
SAMPLING = ("sample", "animate", "tween", "vary", "extend", "smooth", "upscale")
STAGES = ("clip", "prior", "decoder", "interpolation", "sr_256", "sr_768")
SIZES, PHASES = ("cutout", "karlo", "paper"), ("image", "video")
ORDER = ("size", "low_size", "frames", "init_stage", "data", "inputs", "network", "process", "loss")
ORDER += ("optimizer", "num_steps")  # all others follow


# Commands


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All commands that do something, by what one types."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                summaries = {choice.dest: choice.help for choice in action._choices_actions}
                sub.description = sub.description or sentence(summaries[name])
                yield from commands(sub)
            return
    yield parser.prog, parser


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def rows(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Arguments as they are written, and what is said of them."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
        if action.choices:
            value = f"{{{','.join(action.choices)}}}"
        takes = [] if action.nargs == 0 else [value]
        name = " ".join([*action.option_strings[:1], *takes])
        needed = " (required)" if action.required and action.option_strings else ""
        found[f"`{name}`{needed}"] = action.help or ""
    return found


def table(found: Mapping[str, str]) -> str:
    """Arguments as a table."""
    lines = [f"| {cell(name)} | {cell(text)} |" for name, text in found.items()]
    return "\n".join(["| argument | what it says |", "|---|---|", *lines, ""])


def cell(text: str) -> str:
    """Text for a table, where a bar would end the cell."""
    return text.replace("|", r"\|")


def cli_page() -> str:
    """docs/cli.md."""
    found = dict(commands(cli.make_parser()))
    arguments = {name: rows(parser) for name, parser in found.items()}
    each = [arguments[f"mav {name}"].items() for name in SAMPLING]
    shared = dict(item for item in each[0] if all(item in others for others in each[1:]))
    parts = [COMMANDS]
    for name, parser in found.items():
        own = {k: v for k, v in arguments[name].items() if k not in shared}
        sampling = name.removeprefix("mav ") in SAMPLING
        example = (parser.epilog or "").removeprefix("example:\n").partition("\n  docs/")[0]
        parts.append(f"## {name}\n{parser.description}\n")
        if example:
            lines = [line.removeprefix("  ") for line in example.splitlines()]
            parts.append("\n".join(["```bash", *lines, "```", ""]))
        parts.append(table(own if sampling else arguments[name]))
        if sampling:
            parts.append("And what [all commands that sample](#all-commands-that-sample) take.\n")
        if parser.get_default("takes_rest"):
            rest = "`--config.KEY=VALUE` sets a value of the config, see [configs](configs.md).\n"
            if name.startswith("mav data"):
                rest = "Options of Beam may follow where `--beam_runner` is given.\n"
            parts.append(rest)
    parts.append("## All commands that sample\n" + table(shared))
    return "\n".join(parts)


COMMANDS = """# Commands

Made by `python docs/reference.py` from what the commands say of themselves: `mav COMMAND --help`. \
What stands in brackets holds if an option is left out. Every command ends with status 0, or with \
one line that says what is wrong and status 2: [troubleshooting](troubleshooting.md).
"""


# Configs


def remarks(source: str, roots: Mapping[str, str]) -> dict[str, str]:
    """Comments at the ends of lines, or alone on the line above, by the field that is set there.

    roots: names of variables, and what stands before the fields that are set on them.
    """
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.removeprefix("# ")
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[-1]
        root, _, field = ast.unparse(target).partition(".")
        name = roots.get(root, "") + field if field else root
        text = comments.get(node.end_lineno)
        if text is None and node.lineno - 1 in alone:
            text, line = "", node.lineno - 1
            while line in alone:
                text, line = f"{comments[line]} {text}".strip(), line - 1
        if text and (not field or root in roots):
            found.setdefault(name, text)
    return found


def described(kind: type, name: str) -> str:
    """What the docstring of a class says of a field, its first sentence."""
    text = " ".join((kind.__doc__ or "").split())
    match = re.search(rf"(?<=[.] ){name}: (.+?)(?<!Eq)[.](?= |$)", text)
    return match[1] if match else ""


def meanings(stage: str) -> dict[str, str]:
    """What is known of each field: from the network, the process and the configs."""
    network = stages.NETWORKS.get(stage, unet.SpaceTimeUNet)
    names = {field.name for field in dataclasses.fields(network)}
    said = remarks(inspect.getsource(network), {})
    found = {f"network.{name}": text for name, text in said.items() if name in names}
    for kind, prefix in ((diffusion.Process, "process."), (stages.Stage, "")):
        for field in dataclasses.fields(kind):
            found[prefix + field.name] = described(kind, field.name)
    found["process.schedule"] = described(diffusion.Schedule, "kind")
    for name in ("common", stage):
        said = remarks((CONFIGS / f"{name}.py").read_text("utf-8"), {"c": "", "p": "process."})
        for field, text in said.items():  # here, why a process has its value
            known = found.get(field) if field.startswith("process.") else None
            found[field] = f"{known}; here: {text}" if known else text
    return found | dict.fromkeys(("data.images", "data.videos"), found["data[kind]"])


def values(stage: str, size: str, phase: str) -> dict[str, Any] | None:
    """Fields of a config by their dotted names; None where there is no such config."""
    # Which phases a stage has, its config knows.
    try:
        config = config_files.read(f"{CONFIGS}/{stage}.py:{size},{phase}", [])
    except ValueError:
        return None
    plain = json.loads(config.to_json_best_effort())
    return traverse_util.flatten_dict(plain, sep=".")


def written(value: Any) -> str:
    """A value for a table."""
    if isinstance(value, list):
        value = tuple(value)
    return "" if value is None else f"`{value}`"


def place(name: str) -> int:
    """Of a field in a table."""
    first = name.partition(".")[0]
    return ORDER.index(first) if first in ORDER else len(ORDER)


def fields(tables: Mapping[str, Mapping[str, Any]], names: set[str], said: Mapping) -> str:
    """A table of the named fields, their values by size, and what is said of them."""
    lines = [f"| field | {' | '.join(tables)} | what it is |", "|---" * (len(tables) + 2) + "|"]
    there = dict.fromkeys(name for table in tables.values() for name in table if name in names)
    for name in sorted(there, key=place):
        each = " | ".join(written(table.get(name)) for table in tables.values())
        parents = itertools.accumulate(name.split("."), "{}.{}".format)
        meaning = next(filter(None, (said.get(one) for one in [*parents][::-1])), "")
        lines.append(f"| `{name}` | {each} | {cell(meaning)} |")
    return "\n".join([*lines, ""])


def configs_page() -> str:
    """docs/configs.md."""
    found = {
        (stage, phase): {size: table for size in SIZES if (table := values(stage, size, phase))}
        for stage in STAGES
        for phase in PHASES
    }
    found = {where: tables for where, tables in found.items() if tables}
    first, *others = found.values()
    same = lambda name: all(
        name in table and table[name] == first[size].get(name)
        for tables in others
        for size, table in tables.items()
    )
    everywhere = {name for name in first["cutout"] if same(name)}
    parts = [INTRODUCTION + fields(first, everywhere, meanings("clip"))]
    told = None
    for (stage, phase), tables in found.items():
        if stage != told:
            source = (CONFIGS / f"{stage}.py").read_text("utf-8")
            docstring = ast.get_source_segment(source, ast.parse(source).body[0]).strip('"\n')
            parts.append(f"## {stage}\n{docstring}\n")
            told = stage
        own = {name for table in tables.values() for name in table} - everywhere - {"stage"}
        heading = f"### `configs/{stage}.py:SIZE,{phase}`"
        parts.append(f"{heading}\n{fields(tables, own, meanings(stage))}")
    return "\n".join(parts)


INTRODUCTION = """# Configs

Made by `python docs/reference.py` from [configs](../configs). A config is named by its file, its \
size and its phase, `configs/decoder.py:cutout,video`; the phase may be left out where there is \
one. `--config.optimizer.learning_rate=1e-4` behind `mav train`, `mav plan` or `mav bench` sets a \
value. Empty: not set, or as the module has it by itself. [Training](training.md) says more of \
meshes, memory and curricula.

## All stages
"""


def main() -> None:
    """Writes both pages."""
    (HERE / "cli.md").write_text(cli_page(), "utf-8")
    (HERE / "configs.md").write_text(configs_page(), "utf-8")


if __name__ == "__main__":
    main()
