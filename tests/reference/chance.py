"""Weights and videos that the references and the tests both draw, so that no file keeps them."""

import numpy as np


def state_dict(shapes: dict, network: str) -> dict[str, np.ndarray]:
    """Random tensors under which every part of a network matters and nothing grows.

    shapes: by names as PyTorch has them.
    """
    rng = np.random.default_rng(0)

    def draw(name, shape):
        x = rng.standard_normal(shape, np.float32)
        if name.endswith("running_var"):
            return 1 + 0.2 * np.abs(x)
        if len(shape) > 1:
            size = (
                100 if name.startswith("conv1a") else 1
            )  # of the inputs, which C3D takes as colours
            return x * np.float32(np.sqrt(2 / np.prod(shape[1:])) / size)
        if name.endswith("bn.weight"):
            return np.ones_like(x) if network == "i3d" else 1 + 0.2 * x
        return np.float32(0.1) * x

    return {name: draw(name, tuple(shape)) for name, shape in sorted(shapes.items())}


def video(*shape: int, seed: int = 1) -> np.ndarray:
    """Noise in patches, uint8, so that a resize leaves something of it."""
    b, f, h, w = shape
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (b, f, -(-h // 8), -(-w // 8), 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 2).repeat(8, 3)[:, :, :h, :w])


def mean() -> np.ndarray:
    """As TGANv2's mean2.npz has it."""
    return np.random.default_rng(2).uniform(90, 130, (3, 16, 128, 171)).astype(np.float32)
