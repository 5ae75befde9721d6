"""Times mav beside make-a-video-pytorch and diffusers, on the same work in one run.

    .venv/bin/python -m pip install -r requirements/parity.txt
    .venv/bin/python -m pip install --no-deps make-a-video-pytorch==0.4.0
    .venv/bin/python tests/benchmarks/peers.py [layers unet decoder]

Prints seconds of both and how many times faster mav is. On a GPU all run in bfloat16, and diffusers
under torch.compile.
"""

import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import make_a_video_pytorch
import numpy as np
import optax
import torch
from diffusers import UNet2DConditionModel
from flax import linen as nn
from torch.utils.flop_counter import FlopCounterMode

from mav import bench, cli, layers, program, stages, unet
from mav import params as params_lib
from mav.commands import config_files

ROUNDS, CALLS = 3, 3
FRAMES = 16
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = "bfloat16" if GPU else "float32"
LAYERS = ((64, 64), (32, 128), (16, 256))  # pixels, features


def compare(name: str, ours, theirs) -> None:
    """Times both in turn and prints a line. ours, theirs: pairs of a call and its FLOPs."""
    times = ([], [])
    for _ in range(ROUNDS):
        for (call, _), found in zip((ours, theirs), times, strict=True):
            time.sleep(0.5)  # threads of the other library spin a while before they sleep
            jax.block_until_ready(call())
            for _ in range(CALLS):
                start = time.perf_counter()
                jax.block_until_ready(call())
                found.append(time.perf_counter() - start)
    mine, other = map(statistics.median, times)
    print(
        f"{name:44} {mine:8.4f} {other:8.4f} {other / mine:6.2f}x "
        f"{ours[1] / 1e9:9.1f} {theirs[1] / 1e9:9.1f}",
        flush=True,
    )


def ours(function, *args):
    """A jitted call and its FLOPs."""
    compiled = program.Program(jax.jit(function), *args)
    return functools.partial(compiled, *args), compiled.flops


def theirs(function):
    """A call that waits for the GPU, and its FLOPs."""
    with FlopCounterMode(display=False) as counter:
        function()

    def call():
        function()
        if GPU:
            torch.cuda.synchronize()

    return call, counter.get_total_flops()


def lively(module: nn.Module, *args, **kw):
    """Random parameters, none of which is zero."""
    shapes = jax.eval_shape(functools.partial(module.init, **kw), jax.random.key(0), *args)
    return bench.noise(shapes["params"], jax.random.key(1))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def tensor(x: np.ndarray) -> torch.Tensor:
    """Channels last -> channels first, on the device."""
    x = np.moveaxis(x, -1, 1) if x.ndim > 3 else x
    return torch.from_numpy(np.ascontiguousarray(x)).to(DEVICE, getattr(torch, DTYPE))


def compare_layer(name: str, module: nn.Module, peer: torch.nn.Module, x: np.ndarray) -> None:
    """Forward, and gradients to parameters and input."""
    peer = peer.to(DEVICE, getattr(torch, DTYPE))
    y = tensor(x).requires_grad_()
    x = jnp.asarray(x, DTYPE)
    params = lively(module, x)
    forward = lambda params, x: module.apply({"params": params}, x)
    gradients = jax.grad(lambda *a: jnp.sum(forward(*a).astype(jnp.float32) ** 2), argnums=(0, 1))

    def peer_forward():
        with torch.no_grad():
            peer(y.detach())

    def peer_gradients():
        (peer(y).float() ** 2).sum().backward()

    compare(f"{name}, forward", ours(forward, params, x), theirs(peer_forward))
    compare(f"{name}, with gradients", ours(gradients, params, x), theirs(peer_gradients))


def compare_layers() -> None:
    """Space-time convolution and attention."""
    for side, features in LAYERS:
        compare_layer(
            f"pseudo-3D convolution {side}px {features}",
            layers.Pseudo3DConv(features, temporal=True, dtype=DTYPE),
            make_a_video_pytorch.PseudoConv3d(features),
            normal(1, FRAMES, side, side, features),
        )
    compare_layer(
        "space-time attention 16px 256",
        layers.SpaceTimeAttention(head_dim=64, groups=32, temporal=True, dtype=DTYPE),
        make_a_video_pytorch.SpatioTemporalAttention(
            256, dim_head=64, heads=4, add_feed_forward=False, pos_bias=False, flash=True
        ),
        normal(1, FRAMES, 16, 16, 256),
    )


def compare_unet() -> None:
    """A space-time U-Net of equal widths: forward, and a training step with AdamW."""
    network = unet.SpaceTimeUNet(
        width=64, multipliers=(1, 2, 4), depth=1, attention_levels=(2,), temporal=True, dtype=DTYPE
    )
    peer = make_a_video_pytorch.SpaceTimeUnet(
        dim=64,
        dim_mult=(1, 2, 4),
        self_attns=(False, False, True),
        temporal_compression=(False, False, False),
        resnet_block_depths=(1, 1, 1),
        attn_heads=4,
        attn_pos_bias=False,
        flash_attn=True,
    ).to(DEVICE)
    x, t = normal(1, FRAMES, 64, 64, 3), np.array([500])
    y, s = tensor(x).float(), torch.tensor([500.0], device=DEVICE)
    cast = torch.autocast(DEVICE.type, torch.bfloat16, enabled=GPU)

    def peer_forward():
        with torch.no_grad(), cast:
            peer(y, timestep=s)

    torch_adam = torch.optim.AdamW(peer.parameters(), lr=1e-4)

    def peer_step():
        torch_adam.zero_grad()
        with cast:
            loss = ((peer(y, timestep=s) - y) ** 2).mean()
        loss.backward()
        torch_adam.step()

    params = lively(network, x, t)
    forward = lambda params, x, t: network.apply({"params": params}, x, t)
    adam = optax.adamw(1e-4)

    def step(params, opt_state, x, t):
        loss = lambda params: jnp.mean((forward(params, x, t) - x) ** 2)
        updates, opt_state = adam.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    name = "U-Net, widths 64 128 256, 16 x 64 x 64"
    compare(f"{name}, forward", ours(forward, params, x, t), theirs(peer_forward))
    compare(
        f"{name}, training step", ours(step, params, adam.init(params), x, t), theirs(peer_step)
    )


def compare_decoder() -> None:
    """Karlo's decoder at its full size, a guided pair."""
    stage = stages.build(config_files.read("configs/decoder.py:karlo,image", []), DTYPE)
    n, inputs = 81, dict(stage.inputs)
    peer = UNet2DConditionModel(
        sample_size=64,
        in_channels=3,
        out_channels=6,
        block_out_channels=(320, 640, 960, 1280),
        down_block_types=("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3,
        up_block_types=("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        layers_per_block=3,
        attention_head_dim=64,
        cross_attention_dim=1536,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
    ).to(DEVICE, getattr(torch, DTYPE), memory_format=torch.channels_last)
    peer = torch.compile(peer.eval()) if GPU else peer.eval()
    x = normal(2, 64, 64, 3)
    hidden, vector = tensor(normal(2, n, 1536)), tensor(normal(2, 1280))
    seen = torch.ones(2, n, device=DEVICE)

    @torch.no_grad()
    def peer_forward():
        peer(tensor(x), torch.tensor([500], device=DEVICE), hidden, vector, attention_mask=seen)

    params = bench.noise(stages.param_shapes(stage), jax.random.key(1))
    text = dict(
        image_embedding=normal(2, inputs["embedding_features"]),
        text_embedding=normal(2, inputs["embedding_features"]),
        text_states=normal(2, inputs["max_tokens"], inputs["text_features"]),
        text_mask=np.ones((2, inputs["max_tokens"]), bool),
    )
    forward = lambda params, x, t, text: stage.network.apply({"params": params}, x, t, **text)
    print(f"decoder: {params_lib.count(params) / 1e6:.0f}M parameters")
    compare(
        "Karlo's decoder 2 x 64 x 64, forward",
        ours(forward, params, x[:, None], np.array([500, 500]), text),
        theirs(peer_forward),
    )


if __name__ == "__main__":
    cli.choose_cpu_convolutions()  # as every command does
    parts = dict(layers=compare_layers, unet=compare_unet, decoder=compare_decoder)
    print(f"{'':44}    mav s   peer s   ratio mav GFLOP peer GFLOP")
    for part in sys.argv[1:] or parts:
        parts[part]()
