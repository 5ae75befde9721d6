"""The scripts in launch/: what they would do, and runs of two processes on this machine."""

import json
import os
import pathlib
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

import tiny

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
TRAIN = ["--config", "configs/decoder.py:paper,video", "--workdir", "gs://bucket/runs/decoder"]
LIMIT = 240  # seconds for a run of two processes


def script(name, *arguments, check=True, **environment):
    """Runs a script of launch/ and returns what it printed."""
    environment = {**os.environ, **environment}
    command = ["bash", str(ROOT / "launch" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode == 0) == check, done.stderr
    return done.stdout if check else done.stderr


def test_the_scripts_are_free_of_lint():
    shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
    command = [str(shellcheck), *map(str, SCRIPTS), str(ROOT / ".ci" / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_hosts_get_one_process_each():
    lines = script("hosts.sh", "--dry-run", "a b", *TRAIN).splitlines()
    for i, (line, host) in enumerate(zip(lines, "ab", strict=True)):
        several = f"--coordinator a:8476 --num_processes 2 --process_id {i}".split()
        assert shlex.split(line) == [f"{host}:", ".venv/bin/mav", "train", *TRAIN, *several]
    assert "name the machines first" in script("hosts.sh", "--dry-run", *TRAIN, check=False)


def test_slurm_runs_the_same_command():
    found = shlex.split(script("slurm.sh", "--dry-run", *TRAIN))
    assert found == ["srun", "--kill-on-bad-exit=1", ".venv/bin/mav", "train", *TRAIN]
    assert "say what to train" in script("slurm.sh", check=False)


def test_a_tpu_slice_is_asked_for_set_up_trained_on_and_given_back():
    lines = lambda *words: script("tpu_vm.sh", "--dry-run", *words, GIT="https://example.org/mav")
    create = shlex.split(lines("create", "n", "us-west4-a", "v5litepod-256", "--spot"))
    assert create[:5] == ["gcloud", "compute", "tpus", "queued-resources", "create"]
    assert {"--accelerator-type=v5litepod-256", "--runtime-version=v2-alpha-tpuv5-lite"} < {*create}
    assert create[-2:] == ["--spot", "--zone=us-west4-a"]
    assert "git clone https://example.org/mav" in lines("setup", "n", "z", "abc").replace("\\", "")
    train = shlex.split(lines("train", "n", "z", *TRAIN))
    assert "--worker=all" in train
    command = next(word for word in train if word.startswith("--command="))
    assert f"mav train {' '.join(TRAIN)}" in command.replace("\\", "")
    for what in ("state", "watch", "stop", "delete"):
        assert lines(what, "n", "z").startswith("gcloud compute tpus")
    assert "TYPE v3-8 is unknown" in script(
        "tpu_vm.sh", "--dry-run", "create", "n", "z", "v3-8", check=False
    )


def test_a_cluster_gets_one_jobset():
    found = shlex.split(script("gke.sh", "--dry-run", "n", "c", "v6e-64", *TRAIN, IMAGE="i:1"))
    assert found[:3] == ["xpk", "workload", "create"]
    assert {"--workload=n", "--cluster=c", "--tpu-type=v6e-64", "--docker-image=i:1"} < {*found}
    assert shlex.split(found[-1]) == ["--command=mav", "train", *TRAIN]
    gpus = script("gke.sh", "--dry-run", "n", "c", "h100-mega-80gb-8", *TRAIN, IMAGE="i:1")
    assert "--device-type=h100-mega-80gb-8" in gpus
    assert "IMAGE is not set" in script("gke.sh", "n", "c", "v6e-64", *TRAIN, check=False, IMAGE="")


def test_beam_gets_the_options_of_its_runner():
    build = lambda *words, **environment: script(
        "beam.sh", "--dry-run", *words, "videos", "in dir", "out", "--size=256", **environment
    )
    found = shlex.split(build("flink", FLINK="host:8081"))
    assert found[:7] == ["mav", "data", "build", "videos", "in dir", "out", "--size=256"]
    assert {"--beam_runner=FlinkRunner", "--flink_master=host:8081"} < {*found}
    told = dict(PROJECT="p", REGION="r", BUCKET="b", IMAGE="i:1")
    found = shlex.split(build("dataflow", **told))
    assert {"--beam_runner=DataflowRunner", "--temp_location=gs://b/beam"} < {*found}
    assert "--direct_num_workers=3" in build("direct", WORKERS="3")
    unset = dict.fromkeys(told, "")
    for runner, message in (("dataflow", "PROJECT is not set"), ("spark", "spark is unknown")):
        words = ("--dry-run", runner, "videos", "in", "out")
        assert message in script("beam.sh", *words, check=False, **unset)


# Two processes


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    tiny.write(folder)
    return folder


@pytest.fixture(scope="module")
def small(parents):
    """Arguments of `mav train` for a run of seconds, of batches of 4."""
    return tiny.train_arguments(parents, "sr_768")


def two_processes(small, workdir, launcher, **environment):
    """Starts a run of two processes with one device each."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "PORT": str(free_port()),
        **environment,
    }
    command = ["bash", *launcher, *small, "--workdir", str(workdir)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(run):
    """What a run printed; ends all its processes if it takes too long."""
    try:
        return run.communicate(timeout=LIMIT)[0]
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        raise AssertionError(f"not done after {LIMIT} s: {run.communicate()[0]}") from None


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def losses(workdir):
    lines = (workdir / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


HOSTS = (str(ROOT / "launch" / "hosts.sh"), "localhost localhost")


def in_one_process(small, workdir):
    """Losses of the same run in one process."""
    command = [str(pathlib.Path(sys.executable).with_name("mav")), "train", *small]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    command += ["--workdir", str(workdir)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=LIMIT)
    return losses(workdir)


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory):
    return in_one_process(small, tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.timeout(2 * LIMIT)
def test_two_processes_train_as_one_and_write_once(small, alone, tmp_path):
    run = two_processes(small, tmp_path / "run", HOSTS)
    printed = finished(run)
    assert run.returncode == 0, printed
    np.testing.assert_allclose(losses(tmp_path / "run"), alone, rtol=1e-4)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["2", "4"]


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_slurm_starts_two_processes_that_find_each_other(small, alone, tmp_path):
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(FAKE_SRUN)
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    path = f"{srun.parent}:{os.environ['PATH']}"
    job = str(free_port() - 61440 + 4096 * 20)  # JAX makes its port of the job's number
    run = two_processes(
        small, tmp_path / "run", (str(ROOT / "launch" / "slurm.sh"),), PATH=path, SLURM_JOB_ID=job
    )
    printed = finished(run)
    assert run.returncode == 0, printed
    np.testing.assert_allclose(losses(tmp_path / "run"), alone, rtol=1e-4)


FAKE_SRUN = """#!/usr/bin/env bash
export SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost SLURM_JOB_NUM_NODES=1
shift
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" &
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &
wait -n && wait -n
"""


@pytest.mark.slow
@pytest.mark.timeout(4 * LIMIT)
@pytest.mark.parametrize("stage", ["decoder", "sr_768"])  # sr_768 saves most of the time
def test_when_one_process_is_killed_the_other_says_so_and_the_next_run_goes_on(
    stage, parents, tmp_path
):
    workdir = tmp_path / "run"
    # Nothing depends on the number of steps, so that runs of all lengths begin alike.
    small = [*tiny.train_arguments(parents, stage), "--config.optimizer.cooldown=0.0"]
    if stage == "decoder":
        small += ["--config.data.fps_end=(1.5, 1.0)"]
    steps = lambda: [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    run = two_processes([*small, "--config.num_steps=100000"], workdir, HOSTS)
    deadline = time.monotonic() + LIMIT
    while not steps():
        assert time.monotonic() < deadline
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.2)
    killed = time.monotonic()
    subprocess.run(["pkill", "-KILL", "-f", f"workdir {workdir} .*process_id 1"], check=True)
    printed = finished(run)
    assert run.returncode != 0
    assert time.monotonic() - killed < 100
    assert "process 1 on localhost ended with status 137" in printed
    # JAX itself may be the first to end it, "another task died".
    assert "another process of this run is gone" in printed or "another task died" in printed
    assert "Make room" not in printed

    before, end = losses(workdir), max(steps()) + 3
    longer = [*small, f"--config.num_steps={end}"]
    again = two_processes(longer, workdir, HOSTS)
    printed = finished(again)
    assert again.returncode == 0, printed
    assert max(steps()) == end
    expected = in_one_process(longer, tmp_path / "alone")
    added = losses(workdir)[len(before) :]
    np.testing.assert_allclose(added, expected[-3:], rtol=1e-3)
    np.testing.assert_allclose(before[:end], expected[: len(before)], rtol=1e-3)
