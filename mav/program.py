"""Compiled functions with what they cost, and what the devices here can do."""

import functools
import math
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

_JAXPRS = (core.Jaxpr, core.ClosedJaxpr)
REPEATS = 5  # of what is timed
PATIENCE = 20  # seconds, after which no further repeat begins


class Program:
    """A jitted function, compiled once for the shapes of its arguments.

    flops: of `count_flops`. bytes: memory that it needs on each device.
    """

    def __init__(self, function: Callable, *shapes: Any):
        traced = function.trace(*shapes)
        self.flops = count_flops(traced.jaxpr)
        self.compiled = traced.lower().compile()
        memory = self.compiled.memory_analysis()
        self.bytes = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        self.bytes += memory.output_size_in_bytes - memory.alias_size_in_bytes

    def __call__(self, *args: Any) -> Any:
        return self.compiled(*args)


def count_flops(jaxpr: Any) -> float:
    """Floating-point operations of matrix products and convolutions, on all devices.

    Counted before compilation, where loops have their lengths and no library's kernel hides its
    work; of branches, as for several platforms, the costliest counts.
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, values = equation.primitive.name, equation.params
        out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "dot_general":
            (contracted, _), _ = values["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * out * math.prod(left[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[values["dimension_numbers"].rhs_spec[0]]
            total += 2 * out * math.prod(kernel) / features
        elif name == "cond":
            total += max(map(count_flops, values["branches"]))
        else:
            inner = [v for v in jax.tree.leaves(values) if isinstance(v, _JAXPRS)]
            total += values.get("length", 1) * sum(map(count_flops, inner))
    return total


def count_bytes(jaxpr: Any) -> int:
    """The most bytes that a program holds at once beside its arguments, on all devices.

    Counted before compilation, as if every value were kept from where it is made to where it is
    last used. Compilers fuse some of them away and pad others.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    named = lambda values: {v for v in values if not isinstance(v, core.Literal)}
    last = {v: i for i, equation in enumerate(jaxpr.eqns) for v in named(equation.invars)}
    last |= dict.fromkeys(named(jaxpr.outvars), len(jaxpr.eqns))
    given = named([*jaxpr.invars, *jaxpr.constvars])
    held = most = 0
    for i, equation in enumerate(jaxpr.eqns):
        inner = [v for v in jax.tree.leaves(equation.params) if isinstance(v, _JAXPRS)]
        made = sum(map(_bytes, equation.outvars))
        most = max(most, held + max([made, *map(count_bytes, inner)]))
        held += made
        done = named([*equation.invars, *equation.outvars]) - given
        held -= sum(_bytes(v) for v in done if last.get(v, -1) <= i)
    return most


def _bytes(value: Any) -> int:
    shape, dtype = getattr(value.aval, "shape", ()), getattr(value.aval, "dtype", None)
    return math.prod(shape) * getattr(dtype, "itemsize", 0)


def seconds(call: Callable[[], Any]) -> float:
    """Median time of a call whose result is a tree of arrays, after one that is not counted."""
    times = []
    while not times[1:] or (len(times) <= REPEATS and sum(times) < PATIENCE):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


@functools.cache
def matrix_peak(dtype: str) -> float:
    """FLOP/s of one device in products of large square matrices, the best of several sizes."""
    rates, length = [], 4
    for n in (1024, 1536) if jax.default_backend() == "cpu" else (4096, 8192):
        a = jax.random.normal(jax.random.key(0), (n, n), dtype) / np.sqrt(n).astype(dtype)
        chain = jax.jit(lambda a: jax.lax.fori_loop(0, length, lambda i, x: x @ a, a))
        rates.append(length * 2 * n**3 / seconds(functools.partial(chain, a)))
    return max(rates)


def free_memory() -> int:
    """Bytes that are free on a device."""
    stats = jax.local_devices()[0].memory_stats()
    if stats is not None:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    # A CPU's memory is the machine's; what caches files is free as well.
    table = pathlib.Path("/proc/meminfo")
    if table.is_file():
        lines = dict(line.split(":") for line in table.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def used_memory() -> int:
    """The most bytes that a device, or this process on a CPU, has held so far."""
    stats = jax.local_devices()[0].memory_stats()
    if stats is not None:
        return stats["peak_bytes_in_use"]
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
