"""Training checkpoints (Orbax), and what other runs take from them."""

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

import mav
from mav import params as params_lib
from mav import processes, sharding, stages

# Fields of a config that may change when a run goes on; all others decide what is computed.
MAY_CHANGE = ("clip", "init", "num_steps", "mesh", "microbatches", "remat", "scan")
MAY_CHANGE += ("max_skipped", "log_every", "save_every", "profile_at", "eval")
MAY_CHANGE += ("data.images", "data.videos", "data.stills_from", "data.prefetch")
MAY_CHANGE += ("data.workers", "data.threads")


class Checkpoints:
    """Checkpoints of one run under `workdir/checkpoints`.

    Each holds the state, the config and mav's version. Examples and random numbers are functions of
    the seed in the config and of the step, so that the state's step is their position as well.
    """

    def __init__(self, workdir: str | os.PathLike, config: ConfigDict, keep: int = 2):
        self.path = absolute(workdir) / "checkpoints"
        self.about = dict(config=to_json(config), version=mav.__version__)
        self.manager = ocp.CheckpointManager(
            self.path, options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        )

    def save(self, step: int, state: Any) -> None:
        """Starts to write; the training goes on meanwhile.

        Raises OSError if the write before this one failed, for example on a full disk, and what
        `processes.lost` knows if another process is gone; the checkpoints before that are as they
        were.
        """
        arguments = dict(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(self.about))

        def write():
            if not self.manager.save(step, args=ocp.args.Composite(**arguments)):
                raise ValueError(f"step {step} is not newer than {self.manager.latest_step()}")

        self._checked(write)

    def restore(self, abstract_state: Any) -> Any | None:
        """The newest state, laid out as asked; None if there is none.

        A damaged checkpoint is passed over with a warning, and put aside.
        Raises ValueError if all are damaged or of an earlier mav, or the run's config differs in
        what may not change.
        """
        if self.manager.latest_step() is None:
            return None
        for step in self.manager.all_steps():
            if not (self.path / str(step) / "about").is_dir():
                raise ValueError(
                    f"{self.path / str(step)} was not written by this version of mav; go on with "
                    "the one that wrote it, or take another --workdir and start from this run by "
                    "--config.init."
                )
        about = self._read(about=ocp.args.JsonRestore())[1].about
        check_same(about["config"], self.about["config"], self.path)
        step, found = self._read(state=ocp.args.StandardRestore(abstract_state))
        self._put_aside(after=step)
        return found.state

    def _read(self, **item: Any) -> tuple[int, Any]:
        arguments = ocp.args.Composite(**item)
        return read_newest(self.manager, lambda step: self.manager.restore(step, args=arguments))

    def _put_aside(self, after: int) -> None:
        """Moves what cannot be read out of the way of what will be saved."""
        damaged = [step for step in self.manager.all_steps() if step > after]
        if not damaged:
            return
        if processes.is_first():
            aside = self.path.parent / "damaged"
            aside.mkdir(exist_ok=True)
            for step in damaged:
                (self.path / str(step)).rename(aside / f"{step}-{time.time():.0f}")
        processes.wait_for_all("damaged checkpoints are aside")
        self.manager.reload()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        """Waits for the last write. Raises as `save` does, unless another error is raised."""

        def finish():
            try:
                self.manager.wait_until_finished()
            finally:
                self.manager.close()  # tells of a failure as well

        try:
            self._checked(finish)
        except Exception as error:
            if kind is None:
                raise
            warnings.warn(str(error), stacklevel=2)

    def _checked(self, write) -> None:
        try:
            write()
        except Exception as error:
            if processes.lost(error):  # waited for in vain; the disk is well
                raise
            # Or each array that was not written would tell so once more.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            reason = " ".join(str(error).split())[:200]
            raise OSError(
                f"a checkpoint could not be written to {self.path} ({reason}); the older ones are "
                "intact. Make room and run the same command again."
            ) from error


def read_newest(manager: ocp.CheckpointManager, read: Callable[[int], Any]) -> tuple[int, Any]:
    """The newest step that all processes can read, and what `read` makes of it.

    Others are passed over with a warning. Raises ValueError if none can be read.
    """
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            value, reason = read(step), None
        except Exception as error:  # of many kinds, from several libraries
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            value, reason = None, " ".join(str(error).split())[:200]
        if processes.all_agree(reason is None):
            return step, value
        warnings.warn(
            f"checkpoint {manager.directory / str(step)} is passed over, it cannot be read "
            f"({reason or 'by another process'})",
            stacklevel=3,
        )
    raise ValueError(f"no checkpoint in {manager.directory} can be read; see the warnings above.")


def absolute(path: str | os.PathLike) -> epath.Path:
    """The path as Orbax wants it: absolute, or a bucket's."""
    path = epath.Path(path)
    return path if "://" in str(path) else path.absolute()


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], where: epath.Path) -> None:
    """Raises ValueError with the differing fields, unless a run may go on with the new config."""
    flat = lambda config: traverse_util.flatten_dict(dict(config), sep=".")
    old, new = flat(old), flat(new)
    free = lambda name: any(name == field or name.startswith(f"{field}.") for field in MAY_CHANGE)
    differing = [
        f"{name} was {old.get(name)}, is {new.get(name)}"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name) and not free(name)
    ]
    if differing:
        raise ValueError(
            f"the config differs from that of {where}: {'; '.join(differing)}. Change it back, or "
            "take another --workdir and start from this run by --config.init."
        )


def load_ema(
    workdir: str | os.PathLike, dtype: str = "float32", mesh: Mesh | None = None
) -> tuple[stages.Stage, stages.Params, dict[str, Any]]:
    """Stage, averaged parameters and config of a run.

    dtype: in which the network computes. mesh: over which parameters are divided; without one they
    are read into this process's memory.
    Raises ValueError if the folder is not that of a run with a checkpoint.
    """
    workdir = absolute(workdir)
    if not (workdir / "config.json").is_file():
        raise ValueError(f"{workdir} is no training run; it has no config.json.")
    config = params_lib.read_json(workdir / "config.json")
    stage = stages.build(config, dtype)
    shapes = stages.param_shapes(stage)
    if mesh is not None:
        shapes = sharding.placed(shapes, mesh)
    wanted = dict(ema_params=shapes)
    restore = ocp.args.PyTreeRestore(
        wanted, ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
    )
    state = ocp.args.Composite(state=restore)
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        if manager.latest_step() is None:
            raise ValueError(f"{workdir} holds no checkpoint yet.")
        step, restored = read_newest(manager, lambda step: manager.restore(step, args=state))
    params = restored.state["ema_params"]
    return stage, params if mesh is not None else jax.device_get(params), dict(config, step=step)


def to_json(config: ConfigDict) -> dict[str, Any]:
    """A config as plain JSON values (tuples become lists)."""
    return json.loads(config.to_json_best_effort())
