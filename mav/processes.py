"""Runs of several processes: one per host of a TPU slice, one per GPU or host elsewhere."""

import importlib.util
import os
import pathlib
import re

import jax
import numpy as np
from jax.experimental import multihost_utils

LOST = ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED")
HEARTBEAT, START, END = 60, 300, 30  # seconds after which a silent process counts as gone


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of the run, if there are any, before any computation.

    Arguments: "host:port" of the first process, how many there are, and which this is; None where
    the launcher tells (`launched_together`).
    Raises ValueError for an incomplete set, OSError if the others cannot be reached.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise ValueError(
            "coordinator, num_processes and process_id belong together; give all three, or none "
            "where SLURM, Open MPI, Kubernetes or a TPU slice tells them."
        )
    if coordinator is None and not launched_together(os.environ):
        return
    try:
        jax.distributed.initialize(
            *given,
            initialization_timeout=START,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=END,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OSError(f"the other processes of this run cannot be reached ({reason}).") from error


def is_first() -> bool:
    """Whether this process is the one that writes what only one may write."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when all processes are here; what the first wrote before, all can read after."""
    multihost_utils.sync_global_devices(name)


def all_agree(here: bool) -> bool:
    """Whether it is so in all processes."""
    return bool(np.all(multihost_utils.process_allgather(np.array(here))))


def lost(error: BaseException | None) -> str | None:
    """What JAX says of a process that is gone, if that led to an error of this one; else None.

    Exchanges that fail raise errors of several kinds, with the name of a status before the reason.
    """
    while error is not None and jax.process_count() > 1:
        if re.match(f"({'|'.join(LOST)}): ", str(error)):
            return " ".join(str(error).split())
        error = error.__cause__ or error.__context__
    return None


def launched_together(environment: dict[str, str]) -> bool:
    """Whether a launcher that JAX can ask for the rest has started this process."""
    tasks = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    if any(int(environment.get(name, 1)) > 1 for name in tasks):
        return True
    hosts = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
    if any("," in environment.get(name, "") for name in hosts):
        return True
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return True
    return on_tpu_vm() and "TPU_SKIP_MDS_QUERY" not in environment


def on_tpu_vm() -> bool:
    """Whether this machine has TPUs, as a host of Google Cloud or Colab."""
    devices = [*pathlib.Path("/dev").glob("accel*"), *pathlib.Path("/dev/vfio").glob("[0-9]*")]
    return bool(devices) and importlib.util.find_spec("libtpu") is not None
