"""What one sees of a training: a progress bar or log lines, curves, pictures."""

import contextlib
import datetime
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from clu import metric_writers
from etils import epath
from ml_collections import ConfigDict
from PIL import Image
from tqdm.auto import tqdm

from mav import media, program

PROFILED = 5  # steps that are recorded at a time
SHOWN_FPS = 8  # of sampled videos, whatever they were told


class Monitor:
    """Collects scalars and, at every `log`, writes their means since the last one.

    They go to TensorBoard and to `log.jsonl` in the workdir. On a terminal a bar shows the time
    left; elsewhere every `log` prints one line, so that a log file stays readable. Of several
    processes only the first writes.

    load: seconds that a step would take at the devices' matrix peak.
    """

    def __init__(self, workdir: epath.Path, config: ConfigDict, start: int, load: float):
        self.workdir, self.name, self.num_steps = workdir, config.stage, config.num_steps
        self.batch_size, self.load = config.data.batch_size, load
        self.profile_at, self.traced = config.profile_at, 0
        self.first = jax.process_index() == 0
        self.writer = metric_writers.create_default_writer(
            str(workdir), just_logging=not self.first, asynchronous=False
        )
        self.bar = tqdm(
            total=self.num_steps,
            initial=start,
            desc=f"train {self.name}",
            unit="step",
            disable=not (self.first and sys.stderr.isatty()),
        )
        self.start, self.begun = start, time.monotonic()
        self._begin(start)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.traced:
            jax.profiler.stop_trace()
        self.bar.close()
        self.writer.close()

    def _begin(self, step: int) -> None:
        self.since, self.clock, self.wait = step, time.monotonic(), 0.0
        self.scalars, self.fps = [], []

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time within as spent on waiting for data."""
        start = time.monotonic()
        yield
        self.wait += time.monotonic() - start

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Leaves the time within out of the rates."""
        start = time.monotonic()
        yield
        self.clock += time.monotonic() - start

    def profile(self, step: int) -> None:
        """Records the steps from `config.profile_at` on, for TensorBoard's profiler."""
        if self.traced == PROFILED:
            jax.profiler.stop_trace()
            self.traced = 0
        elif self.traced:
            self.traced += 1
        elif step == self.profile_at:
            jax.profiler.start_trace(str(self.workdir))
            self.traced = 1

    def step(self, scalars: Mapping[str, jax.Array], batch: Mapping[str, np.ndarray]) -> None:
        """Takes note of a step. batch: this process's rows."""
        self.bar.update()
        self.scalars.append(scalars)
        if "fps" in batch:
            self.fps.append(batch["fps"])

    def log(self, step: int) -> dict[str, float]:
        """Writes what was noted since the last time, and returns it."""
        noted = jax.device_get(self.scalars)
        columns = {name: np.array([s[name] for s in noted]) for name in noted[0]}
        values = {name: mean_of_finite(column) for name, column in columns.items()}
        for name in ("skipped", "skipped_in_a_row"):
            values[name] = float(columns[name].max())
        spent, steps = time.monotonic() - self.clock, step - self.since
        values["steps_per_second"] = steps / spent
        values["examples_per_second"] = steps * self.batch_size / spent
        values["share_of_matrix_peak"] = steps * self.load / spent
        values["waiting_for_data"] = self.wait / spent
        values["memory_gib"] = program.used_memory() / 2**30
        self.writer.write_scalars(step, values)
        if self.fps:
            self.writer.write_histograms(step, {"fps": np.concatenate(self.fps)}, {"fps": 29})
        if self.first:
            known = {k: v for k, v in values.items() if np.isfinite(v)}  # JSON has no others
            with (self.workdir / "log.jsonl").open("a") as log:
                log.write(json.dumps(dict(step=step, **known)) + "\n")
            self.bar.set_postfix(loss=f"{values['loss']:.4f}")
            if self.bar.disable:
                self._print(step, values)
        self._begin(step)
        return values

    def _print(self, step: int, values: Mapping[str, float]) -> None:
        rate = (step - self.start) / (time.monotonic() - self.begun)
        left = datetime.timedelta(seconds=round((self.num_steps - step) / rate))
        print(
            f"train {self.name} {step}/{self.num_steps}: loss {values['loss']:.4f}, "
            f"{values['steps_per_second']:.2f} steps/s, {left} left",
            file=sys.stderr,
            flush=True,
        )

    def picture(self, step: int, image: np.ndarray) -> None:
        """Writes samples as a PNG and for TensorBoard."""
        if self.first:
            png = io.BytesIO()
            Image.fromarray(image).save(png, "png")
            (self.workdir / "samples" / f"{step:07d}.png").write_bytes(png.getvalue())
        self.writer.write_images(step, {"samples": image[None]})

    def video(self, step: int, frames: np.ndarray) -> None:
        """Writes samples as an mp4."""
        if self.first:
            with tempfile.TemporaryDirectory() as folder:
                here = epath.Path(folder) / f"{step:07d}.mp4"
                media.write(here, frames, SHOWN_FPS)
                here.copy(self.workdir / "samples" / here.name, overwrite=True)

    def text(self, step: int, name: str, text: str) -> None:
        """Writes a text for TensorBoard."""
        self.writer.write_texts(step, {name: text})


def mean_of_finite(values: np.ndarray) -> float:
    """Mean of what is finite, not a number if nothing is: a skipped step has no loss."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
