"""Times the networks that judge videos beside PyTorch, on the same work in one run.

    .venv/bin/python -m pip install -r requirements/parity.txt
    .venv/bin/python -m pip install --no-deps -r requirements/parity_alone.txt
    .venv/bin/python tests/benchmarks/features.py [i3d c3d inception clip captions]

Clips of 16 frames of 128 pixels, resized as each network has it, 4 frames for Inception; for the
text tower of CLIP (ViT-B/32), 16 captions. On a CPU one of these at a time, on a GPU 32, and
PyTorch once as it comes and once without TF32, by which mav computes no features. Prints how many
both do per second, and how many times faster mav is. Turns are short and alternate, so that other
work on the machine disturbs both alike.
"""

import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

sys.path.append(str(pathlib.Path(__file__).parent.parent / "reference"))

import jax
import make
import numpy as np
import torch

import chance
import judges
from mav import cli
from mav import params as params_lib
from mav.convert import features as convert
from mav.evaluate import features

ROUNDS = 9
DEVICE = "cuda" if jax.default_backend() == "gpu" else "cpu"
CLIPS = dict(cuda=32, cpu=1)[DEVICE]
CAPTIONS = ["a photo of a bird over the sea"] * 16 * CLIPS


def main(names: list[str]) -> None:
    cli.choose_cpu_convolutions()  # as every command does
    torch.set_grad_enabled(False)
    print(f"{'':10}  mav, per s  torch, per s    ratio   largest difference")
    for name in names or (*features.KINDS, "clip", "captions"):
        calls = (clip if name in ("clip", "captions") else released)(name)
        compare(name, *calls)
        if DEVICE == "cuda":
            torch.backends.cudnn.allow_tf32 = False
            compare("  no TF32", *calls)
            torch.backends.cudnn.allow_tf32 = True


def compare(name: str, mine: Callable, theirs: Callable) -> None:
    """Times both in turn and prints a line; the ratio is the median of the turns' own."""
    times = ([], [])
    difference = np.abs(mine() - theirs()).max()
    for _ in range(ROUNDS):
        for call, found in zip((mine, theirs), times, strict=True):
            time.sleep(0.2)  # threads of the other library spin a while before they sleep
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    a, b = map(statistics.median, times)
    ratio = statistics.median(y / x for x, y in zip(*times, strict=True))
    speeds = f"{CLIPS / a:11.2f} {CLIPS / b:14.2f} {ratio:6.2f}x"
    print(f"{name:10} {speeds} {difference:12.1e}", flush=True)


def clip(name: str) -> tuple[Callable, Callable]:
    """A tower of CLIP as mav and as transformers have it."""
    config = make.CLIPConfig(
        text_config=dict(eos_token_id=2, **make.tower(512, 12, 8)),  # its end is the largest token
        vision_config=make.tower(768, 12, 12, image_size=224, patch_size=32),
        projection_dim=512,
    )
    model = make.lively(make.CLIPModel(config), 1)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder, "clip")
        tokenizer = make.make_tokenizer(folder, 77)
        model.save_pretrained(folder)
        extractor = features.load("clip", folder)
    model.to(DEVICE)
    if name == "clip":
        frames = chance.video(CLIPS, 16, 128, 128)
        look = lambda: judges.clip(model, frames)["embedding"].cpu().numpy()
        return lambda: extractor(frames)["embedding"], look

    def read():
        ids = tokenizer(CAPTIONS, padding="max_length", return_tensors="pt")["input_ids"]
        states = model.text_model(ids.to(DEVICE)).pooler_output
        return model.text_projection(states).cpu().numpy()

    return lambda: extractor.embed_texts(CAPTIONS), read


def released(name: str) -> tuple[Callable, Callable]:
    """Another network as mav and as its release have it."""
    frames = chance.video(CLIPS, 4 if name == "inception" else 16, 128, 128)
    network, look = reference(name)
    shapes = {k: v.shape for k, v in network.state_dict().items() if v.is_floating_point()}
    weights = chance.state_dict(shapes, name)
    tensors = {k: torch.from_numpy(v) for k, v in weights.items()}
    network.load_state_dict(tensors, strict=False)
    network.eval().to(DEVICE)
    mine = extractor(name, weights)
    return lambda: mine(frames)["logits"], lambda: look(frames)["logits"].cpu().numpy()


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
    return features.Extractor(name, kind.network, params, kind.preprocessing, "")


def layout(name: str, weights: dict[str, np.ndarray]):
    """How the tensors are named, and shapes of the parameters that they become."""
    shapes = params_lib.flatten(features.param_shapes(name))
    shapes = {k: v.shape for k, v in shapes.items() if k != "mean"}
    return convert.choose(name, weights, shapes), shapes


if __name__ == "__main__":
    main(sys.argv[1:])
