"""What a program moves and exchanges, read from the text that XLA writes once it is scheduled."""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"
)  # fmt: skip
SLICES = ("slice", "dynamic-slice", "gather")
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "while"}
FREE |= {"conditional", "call", "async-start", "partition-id", "after-all"}
FREE_CALLS = ("ConcatBitcast", "AllocateBuffer", "AsyncCollectiveStart", "AsyncCollectiveDone")
BYTES = dict(pred=1, s8=1, u8=1, s16=2, u16=2, bf16=2, f16=2, s32=4, u32=4, f32=4, s64=8, u64=8)
BYTES |= dict(f64=8, f8e4m3fn=1, f8e5m2=1)


class Array(NamedTuple):
    """Bytes of an array, and whether it lies in a device's main memory."""

    bytes: int
    in_memory: bool


class Instruction(NamedTuple):
    """A line of a computation. operands: names of the same computation."""

    name: str
    op: str
    arrays: list[Array]
    operands: list[str]
    line: str

    @property
    def bytes(self) -> int:
        """Of all that it makes."""
        return sum(array.bytes for array in self.arrays)

    @property
    def in_memory(self) -> int:
        """Bytes of what it makes in main memory."""
        return sum(array.bytes for array in self.arrays if array.in_memory)

    def called(self, role: str) -> str | None:
        """The computation that it names as its `calls`, `body`, `condition` or `to_apply`."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.line)
        return found and found[1]


Computation = dict[str, Instruction]  # the last one is its result


class Program:
    """A program's computations by name, and how often each is run."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        current: Computation = {}
        for line in text.splitlines():
            head = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
            if head:
                current = self.computations.setdefault(head[1], {})
            elif made := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(", line):
                names = re.findall(r"(?<![=\w])%([\w.\-]+)", line[made.end() :])
                operands = [name for name in names if name in current]
                arrays = list(_arrays(made[2]))
                current[made[1]] = Instruction(made[1], made[3], arrays, operands, line)
        self.times = self._times_run()

    def instructions(self) -> Iterator[Instruction]:
        """Those of all computations."""
        for computation in self.computations.values():
            yield from computation.values()

    def _times_run(self) -> dict[str, int]:
        """How often each computation is run: loops of known length repeat what they call."""
        callers = {name: [] for name in self.computations}
        for caller, computation in self.computations.items():
            for made in computation.values():
                for role in ("body", "calls", "to_apply"):
                    if (name := made.called(role)) in callers:
                        callers[name].append((caller, self._length(made)))

        @functools.cache
        def times(name: str) -> int:
            return sum(length * times(caller) for caller, length in callers[name]) or 1

        return {name: times(name) for name in self.computations}

    def _length(self, made: Instruction) -> int:
        """Of a loop; 1 for anything else. Loops of JAX count from 0 while less than a constant."""
        if made.op != "while":
            return 1
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', made.line):
            return int(known[1])
        condition = self.computations.get(made.called("condition"), {})
        limits = [re.search(r"constant\((\d+)\)", line.line) for line in condition.values()]
        limits = [int(limit[1]) for limit in limits if limit]
        return limits[0] if len(limits) == 1 else 1

    def collectives(self) -> dict[str, dict[str, float]]:
        """By kind: how many are run, and bytes of their results."""
        found = {}
        for name, computation in self.computations.items():
            for made in computation.values():
                kind = made.op.removesuffix("-start")
                if kind not in COLLECTIVES:
                    continue
                arrays = made.arrays
                if made.op == "collective-permute-start":  # two counters come last
                    arrays = arrays[:-2]
                if made.op in ("all-gather-start", "collective-permute-start"):
                    arrays = arrays[len(arrays) // 2 :]  # operands come first
                entry = found.setdefault(kind, dict(count=0, bytes=0.0))
                entry["count"] += self.times[name]
                entry["bytes"] += self.times[name] * sum(array.bytes for array in arrays)
        return found

    def bytes_moved(self) -> float:
        """Bytes that a device reads from and writes to its main memory, padding not counted.

        What the compiler has put into faster memory ("S(1)") is free. A slice reads and an update
        writes only its part, in fusions too.
        """
        within = {
            made.called(role)
            for made in self.instructions()
            for role in ("calls", "to_apply")
            if made.op not in ("call", "async-start")
        }
        moved = 0.0
        for name, computation in self.computations.items():
            if name not in within:
                each = sum(self._moved(computation, made) for made in computation.values())
                moved += self.times[name] * each
        return moved

    def _moved(self, computation: Computation, made: Instruction) -> int:
        if made.op in FREE or made.op.endswith("-done"):
            return 0
        if made.op == "custom-call" and any(name in made.line for name in FREE_CALLS):
            return 0
        if made.op.endswith("-start"):  # makes a tuple of what it reads and what it writes
            return made.in_memory
        operands = [computation[name] for name in made.operands]
        if made.op in SLICES:
            return made.in_memory + made.bytes * bool(operands and operands[0].in_memory)
        if made.op == "dynamic-update-slice":
            return 2 * operands[1].bytes * bool(made.in_memory)
        if made.op == "fusion":
            body = self.computations[made.called("calls")]
            written = zip(made.arrays, self._written(body), strict=True)
            return sum(size for array, size in written if array.in_memory) + sum(
                self._read(body, number)
                for number, operand in enumerate(operands)
                if operand.in_memory
            )
        return made.in_memory + sum(operand.in_memory for operand in operands)

    def _read(self, body: Computation, number: int) -> int:
        """Bytes that a fused computation reads of its operand."""
        given = next(made for made in body.values() if f" parameter({number})" in made.line)
        return min(given.bytes, self._used(body, given))

    def _used(self, body: Computation, given: Instruction) -> int:
        used = 0
        for user in body.values():
            if given.name not in user.operands:
                continue
            first = user.operands[0] == given.name
            if user.op in SLICES and first:
                used += user.bytes
            elif user.op == "bitcast":
                used += self._used(body, user)
            elif user.op == "fusion":
                inner = self.computations[user.called("calls")]
                places = [i for i, name in enumerate(user.operands) if name == given.name]
                used += sum(self._read(inner, place) for place in places)
            elif not (user.op == "dynamic-update-slice" and first):
                used += given.bytes
        return used

    def _written(self, body: Computation, result: Instruction | None = None) -> list[int]:
        """Bytes that a fused computation writes, by result."""
        result = result or list(body.values())[-1]
        operands = [body[name] for name in result.operands]
        if result.op == "tuple":
            return [size for operand in operands for size in self._written(body, operand)]
        if result.op == "bitcast" and operands:
            return self._written(body, operands[0])
        if result.op == "dynamic-update-slice":
            return [operands[1].bytes]
        if result.op == "fusion":
            return self._written(self.computations[result.called("calls")])
        return [array.bytes for array in result.arrays]


def _arrays(shape: str) -> Iterator[Array]:
    """Of a shape such as "(f32[8,4]{1,0:T(8,128)}, bf16[2]{0:S(1)})"."""
    for kind, sizes, layout in re.findall(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?", shape):
        size = BYTES.get(kind, 0) * math.prod(int(n) for n in sizes.split(",") if n)
        yield Array(size, re.search(r"S\([1-9]", layout) is None)
