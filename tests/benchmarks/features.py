"""Times the networks that judge videos beside PyTorch, on the same work in one run.

    .venv/bin/python -m pip install -r requirements/parity.txt
    .venv/bin/python -m pip install --no-deps -r requirements/parity_alone.txt
    .venv/bin/python tests/benchmarks/features.py [i3d c3d inception]

One clip of 16 frames of 128 pixels, resized as each network has it; 4 frames for Inception. Prints
clips per second of both, and how many times faster mav is. Turns are short and alternate, so that
other work on the machine disturbs both alike.
"""

import pathlib
import statistics
import sys
import time

sys.path.append(str(pathlib.Path(__file__).parent.parent / "reference"))

import jax
import numpy as np
import torch

import chance
import judges
from mav import cli
from mav import params as params_lib
from mav.convert import features as convert
from mav.evaluate import features

ROUNDS = 9


def main(names: list[str]) -> None:
    cli.choose_cpu_convolutions()  # as every command does
    print(f"{'':10} mav clips/s  torch clips/s  ratio   largest difference")
    for name in names or features.KINDS:
        compare(name)


def compare(name: str) -> None:
    """Times both in turn and prints a line; the ratio is the median of the turns' own."""
    frames = chance.video(1, 4 if name == "inception" else 16, 128, 128)
    network, look = reference(name)
    shapes = {k: v.shape for k, v in network.state_dict().items() if v.is_floating_point()}
    weights = chance.state_dict(shapes, name)
    tensors = {k: torch.from_numpy(v) for k, v in weights.items()}
    network.load_state_dict(tensors, strict=False)
    network.eval()
    mine = extractor(name, weights)

    @torch.no_grad()
    def theirs():
        return look(frames)["logits"].numpy()

    calls = (lambda: mine(frames)["logits"], theirs)
    times = ([], [])
    difference = np.abs(calls[0]() - calls[1]()).max()
    for _ in range(ROUNDS):
        for call, found in zip(calls, times, strict=True):
            time.sleep(0.2)  # threads of the other library spin a while before they sleep
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    a, b = map(statistics.median, times)
    ratio = statistics.median(y / x for x, y in zip(*times, strict=True))
    print(f"{name:10} {1 / a:11.2f} {1 / b:14.2f} {ratio:6.2f}x {difference:12.1e}", flush=True)


def reference(name: str):
    """A network of PyTorch, and what it makes of frames."""
    if name == "inception":
        network = judges.inception_network(pathlib.Path("empty.pth"))
        return network, lambda frames: judges.inception(network, frames)
    if name == "i3d":
        network = judges.I3D()
        return network, lambda frames: judges.i3d(network, frames)
    network = judges.C3D(hidden=4096)
    return network, lambda frames: judges.c3d(network, frames, chance.mean())


def extractor(name: str, weights: dict[str, np.ndarray]) -> features.Extractor:
    """mav's, of the same weights."""
    flat = convert.fit(weights, *layout(name, weights), "the reference")
    kind = features.KINDS[name]
    if name == "c3d":
        flat["mean"] = chance.mean()[:, :, 8:120, 8:120].transpose(1, 2, 3, 0)
    params = jax.device_put(params_lib.unflatten(flat))
    return features.Extractor(name, kind.network, params, kind.preprocessing, "", False)


def layout(name: str, weights: dict[str, np.ndarray]):
    """How the tensors are named, and shapes of the parameters that they become."""
    shapes = params_lib.flatten(features.param_shapes(name))
    shapes = {k: v.shape for k, v in shapes.items() if k != "mean"}
    return convert.choose(name, weights, shapes), shapes


if __name__ == "__main__":
    main(sys.argv[1:])
