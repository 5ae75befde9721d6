"""Training checkpoints (Orbax), and what other runs take from them."""

import json
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mav import params as params_lib
from mav import stages


class Checkpoints:
    """Checkpoints of one run under `workdir/checkpoints`: state and data position."""

    def __init__(self, workdir: str | pathlib.Path, keep: int = 2):
        self.manager = ocp.CheckpointManager(
            pathlib.Path(workdir).absolute() / "checkpoints",
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
        )

    def save(self, state: Any, data_position: dict[str, Any]) -> None:
        """Starts to write; the training goes on meanwhile."""
        self.manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_position)
            ),
        )

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest state, laid out as asked, and the data position; None if there is none."""
        if self.manager.latest_step() is None:
            return None
        restored = self.manager.restore(
            self.manager.latest_step(),
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()
            ),
        )
        return restored.state, restored.data

    def close(self) -> None:
        """Waits for the last write."""
        self.manager.wait_until_finished()
        self.manager.close()


def load_ema(
    workdir: str | pathlib.Path, dtype: str = "float32"
) -> tuple[stages.Stage, stages.Params, dict[str, Any]]:
    """Stage, EMA parameters and config of a run.

    dtype: in which the network computes.

    Raises ValueError if the folder is not that of a run with a checkpoint.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / "config.json").is_file():
        raise ValueError(f"{workdir} is no training run; it has no config.json.")
    config = params_lib.read_json(workdir / "config.json")
    stage = stages.build(config, dtype)
    with ocp.CheckpointManager(workdir.absolute() / "checkpoints") as manager:
        step = manager.latest_step()
        if step is None:
            raise ValueError(f"{workdir} holds no checkpoint yet.")
        restored = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
    params = jax.device_get(restored.state["ema_params"])
    return stage, params, dict(config, step=step)


def to_json(config: ConfigDict) -> dict[str, Any]:
    """A config as plain JSON values (tuples become lists)."""
    return json.loads(config.to_json_best_effort())
