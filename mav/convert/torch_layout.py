"""Reads folders as diffusers and transformers write them, and moves tensors into mav's layout.

Nothing of those libraries is needed: `config.json` is JSON, and weights are safetensors. A table
says for every parameter of mav which tensor it comes from and how that is turned.
"""

import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors

from mav import params as params_lib

Move = Callable[[np.ndarray], np.ndarray]
Table = dict[str, tuple[str, Move]]  # parameter of mav -> tensor of the file, and how to turn it
NOT_WEIGHTS = ("position_ids", "causal_attention_mask")  # constants that old files carry along
WEIGHTS = ("diffusion_pytorch_model", "model")  # names of weight files, before .safetensors


class Component:
    """One network of a pipeline: its folder's config and its tensors, read one at a time.

    prefixes: of the tensors that are wanted, where a folder holds more than one network.
    Raises ValueError if the folder lacks either, or a file is damaged.
    """

    def __init__(self, folder: str | os.PathLike, prefixes: tuple[str, ...] = ("",)):
        self.folder = pathlib.Path(folder)
        if not (self.folder / "config.json").is_file():
            raise ValueError(f"{self.folder} has no config.json; give a folder as diffusers saves.")
        self.config = params_lib.read_json(self.folder / "config.json")
        self.prefixes = prefixes
        self.files = find_weights(self.folder)
        self.where: dict[str, pathlib.Path] = {}
        self.header: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        for file in self.files:
            self._read_header(file)

    def _read_header(self, path: pathlib.Path) -> None:
        names = {short: name for name, short in params_lib.DTYPES.items()}
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118
                    constant = name.rpartition(".")[2] in NOT_WEIGHTS
                    if constant or not name.startswith(self.prefixes):
                        continue
                    entry = file.get_slice(name)
                    dtype = names.get(entry.get_dtype())
                    if dtype is None:
                        raise ValueError(
                            f"{path} holds {name} as {entry.get_dtype()}; weights must be one of "
                            f"{', '.join(params_lib.DTYPES.values())}."
                        )
                    self.where[name] = path
                    self.header[name] = (np.dtype(dtype), tuple(entry.get_shape()))
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); fetch it again.") from error

    def read(self, name: str) -> np.ndarray:
        """A tensor, in the file's dtype."""
        with safetensors.safe_open(self.where[name], framework="numpy") as file:
            return file.get_tensor(name)

    def __getitem__(self, name: str) -> Any:
        """An entry of the config. Raises ValueError if it has none of that name."""
        if name not in self.config:
            raise ValueError(f"{self.folder / 'config.json'} lacks {name}.")
        return self.config[name]

    def require(self, **allowed: Sequence[Any]) -> None:
        """Raises ValueError unless each named entry of the config has one of the given values.

        An entry that is left out has the first of them.
        """
        for name, values in allowed.items():
            found = self.config.get(name, values[0])
            if found not in values:
                raise ValueError(
                    f"{self.folder / 'config.json'} has {name}={found!r}; mav's network can only "
                    f"be {' or '.join(map(repr, values))}."
                )


def find_weights(folder: pathlib.Path) -> list[pathlib.Path]:
    """The safetensors files of a component: one, or all shards that its index names.

    Raises ValueError if there are none, or only pickles.
    """
    for stem in WEIGHTS:
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            shards = sorted(set(params_lib.read_json(index).get("weight_map", {}).values()))
            for shard in shards:
                if pathlib.PurePath(shard).name != shard or not (folder / shard).is_file():
                    raise ValueError(f"{index} names {shard!r}, which is not a file beside it.")
            return [folder / shard for shard in shards]
        if (folder / f"{stem}.safetensors").is_file():
            return [folder / f"{stem}.safetensors"]
    variants = sorted(folder.glob("*.safetensors"))
    if len(variants) == 1:  # such as diffusion_pytorch_model.fp16.safetensors
        return variants
    if variants:
        names = ", ".join(path.name for path in variants)
        raise ValueError(f"{folder} holds several weight files, {names}; leave one.")
    pickles = [p.name for kind in ("*.bin", "*.ckpt", "*.pt", "*.pth") for p in folder.glob(kind)]
    if pickles:
        raise ValueError(
            f"{folder} holds {', '.join(sorted(pickles))}, which can run code when opened and is "
            "never read; save the pipeline with diffusers as safetensors."
        )
    raise ValueError(f"{folder} holds no weights; it needs a .safetensors file.")


# How tensors are turned


def keep(x: np.ndarray) -> np.ndarray:
    """The same in both layouts."""
    return x


def transpose(x: np.ndarray) -> np.ndarray:
    """Kernel of a linear layer, [out, in] -> [in, out]."""
    return x.T


def image_kernel(x: np.ndarray) -> np.ndarray:
    """Kernel of a convolution, [out, in, height, width] -> [height, width, in, out]."""
    return x.transpose(2, 3, 1, 0)


def flat(x: np.ndarray) -> np.ndarray:
    """A vector that is kept with leading axes of length one."""
    return x.reshape(-1)


def drop_first(x: np.ndarray) -> np.ndarray:
    """[1, n, c] -> [n, c]."""
    return x.reshape(x.shape[1:])


# Entries of tables, by kind of layer


def linear(to: str, source: str, bias: bool = True) -> Table:
    """Entries of a linear layer."""
    table: Table = {f"{to}/kernel": (f"{source}.weight", transpose)}
    return table | ({f"{to}/bias": (f"{source}.bias", keep)} if bias else {})


def convolution(to: str, source: str) -> Table:
    """Entries of a convolution over space."""
    return {
        f"{to}/kernel": (f"{source}.weight", image_kernel),
        f"{to}/bias": (f"{source}.bias", keep),
    }


def norm(to: str, source: str) -> Table:
    """Entries of a normalisation."""
    return {f"{to}/scale": (f"{source}.weight", keep), f"{to}/bias": (f"{source}.bias", keep)}


Sources = Sequence[tuple[Component, Table]]  # of one stage


def check(sources: Sources, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless tensors and parameters are one to one, of the network's shapes.

    shapes: of all parameters that come from the sources.
    """
    problems = dict(missing=[], unused=[], differing=[])
    for component, table in sources:
        wanted = {tensor for tensor, _ in table.values()}
        problems["missing"] += sorted(wanted - set(component.header))
        problems["unused"] += sorted(set(component.header) - wanted)
        for name, (tensor, move) in table.items():
            if tensor in component.header and name in shapes:
                found = component.header[tensor][1]
                if turned_shape(move, found) != tuple(shapes[name]):
                    problems["differing"].append(
                        f"{tensor} is {found}, but {name} is {tuple(shapes[name])}"
                    )
    known = {name for _, table in sources for name in table}
    problems["differing"] += [f"no tensor for {name}" for name in sorted(set(shapes) - known)]
    problems["differing"] += [f"no parameter {name}" for name in sorted(known - set(shapes))]
    folders = ", ".join(str(component.folder) for component, _ in sources)
    params_lib.refuse(f"{folders} does not fit the network of its config.json", problems)


def turned_shape(move: Move, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Shape after a move, None if it cannot be made."""
    try:
        return move(np.broadcast_to(np.zeros((), np.int8), shape)).shape  # no memory taken
    except ValueError:
        return None


def read(sources: Sources, name: str) -> np.ndarray:
    """A parameter of mav, in the file's dtype. Raises ValueError if it is not finite."""
    for component, table in sources:
        if name in table:
            tensor, move = table[name]
            values = move(component.read(tensor))
            if not np.isfinite(values).all():
                where = component.where[tensor]
                raise ValueError(f"{where} is damaged ({tensor} has non-finite numbers).")
            return values
    raise KeyError(name)


def describe(files: Sequence[pathlib.Path]) -> dict[str, Any]:
    """Names, sizes and checksums of weight files, which tell one release from another."""
    result = {}
    for path in files:
        with open(path, "rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        result[path.name] = dict(bytes=path.stat().st_size, sha256=checksum)
    return result
