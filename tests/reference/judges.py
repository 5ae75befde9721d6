"""I3D and C3D in plain PyTorch, written from their definitions, with the names of the releases.

Of Inception and CLIP there are packages, torch-fidelity and transformers. How each network looks at
frames as they lie in files.
"""

import importlib
import importlib.util
import pathlib
import sys
import types
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

MIXED = {  # Carreira & Zisserman 2017, figure 3, and the widths of GoogLeNet
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}


def same(x, window, strides, value=0.0):
    """Pads [b, c, f, h, w] as TensorFlow's SAME: the odd one out comes behind."""
    pads = []
    for size, k, s in zip(x.shape[2:], window, strides, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return functional.pad(x, pads, value=value)


class Unit(torch.nn.Module):
    def __init__(self, inputs, outputs, size, stride=1, last=False):
        super().__init__()
        self.window, self.strides, self.last = (size,) * 3, (stride,) * 3, last
        self.conv3d = torch.nn.Conv3d(inputs, outputs, size, stride, bias=last)
        if not last:
            self.bn = torch.nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x):
        x = self.conv3d(same(x, self.window, self.strides))
        return x if self.last else functional.relu(self.bn(x))


class Mixed(torch.nn.Module):
    def __init__(self, inputs, a, b, c, d, e, f):
        super().__init__()
        self.b0 = Unit(inputs, a, 1)
        self.b1a, self.b1b = Unit(inputs, b, 1), Unit(b, c, 3)
        self.b2a, self.b2b = Unit(inputs, d, 1), Unit(d, e, 3)
        self.b3b = Unit(inputs, f, 1)

    def forward(self, x):
        pooled = pool(x, (3, 3, 3), (1, 1, 1))
        parts = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)]
        return torch.cat(parts, 1)


def pool(x, window, strides):
    return functional.max_pool3d(same(x, window, strides, -torch.inf), window, strides)


class I3D(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, widths in MIXED.items():
            self.add_module(name, Mixed(*widths))
        self.logits = Unit(1024, 400, 1, last=True)

    def forward(self, x):
        x = pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        x = pool(self.Mixed_3c(self.Mixed_3b(x)), (3, 3, 3), (2, 2, 2))
        for name in ("4b", "4c", "4d", "4e", "4f"):
            x = getattr(self, f"Mixed_{name}")(x)
        x = self.Mixed_5c(self.Mixed_5b(pool(x, (2, 2, 2), (2, 2, 2))))
        x = functional.avg_pool3d(x, (2, 7, 7), 1)
        return self.logits(x)[..., 0, 0].mean(2)


CONVOLUTIONS = dict(
    conv1a=(3, 64),
    conv2a=(64, 128),
    conv3a=(128, 256),
    conv3b=(256, 256),
    conv4a=(256, 512),
    conv4b=(512, 512),
    conv5a=(512, 512),
    conv5b=(512, 512),
)


class C3D(torch.nn.Module):
    """hidden: features of the linear layers, 4096 in the release."""

    def __init__(self, hidden):
        super().__init__()
        for name, (inputs, outputs) in CONVOLUTIONS.items():
            self.add_module(name, torch.nn.Conv3d(inputs, outputs, 3, padding=1))
        self.fc6 = torch.nn.Linear(512 * 4 * 4, hidden)
        self.fc7 = torch.nn.Linear(hidden, hidden)
        self.fc8 = torch.nn.Linear(hidden, 101)

    def forward(self, x):
        for name in CONVOLUTIONS:
            x = functional.relu(getattr(self, name)(x))
            if name == "conv1a":
                x = functional.max_pool3d(x, (1, 2, 2))
            elif name not in ("conv3a", "conv4a", "conv5a"):
                x = functional.max_pool3d(x, 2, ceil_mode=True)  # Chainer's cover_all
        x = functional.relu(self.fc6(x.flatten(1)))
        return self.fc8(functional.relu(self.fc7(x)))


def tensor(frames: np.ndarray, model: torch.nn.Module) -> torch.Tensor:
    """Where the model is."""
    return torch.from_numpy(frames).to(next(model.parameters()).device)


def fidelity(name: str) -> types.ModuleType:
    """A module of torch-fidelity, without the rest of the package, which wants torchvision."""
    if "torch_fidelity" not in sys.modules:
        package = types.ModuleType("torch_fidelity")
        package.__path__ = importlib.util.find_spec("torch_fidelity").submodule_search_locations
        sys.modules["torch_fidelity"] = package
    return importlib.import_module(f"torch_fidelity.{name}")


def inception_network(empty: pathlib.Path) -> torch.nn.Module:
    """torch-fidelity's, with weights yet to come; it wants to read some when it is made."""
    module = fidelity("feature_extractor_inceptionv3")
    network = module.FeatureExtractorInceptionV3
    torch.save({}, empty)
    with mock.patch.object(network, "load_state_dict"):
        made = network("inception", ["2048", "logits"], feature_extractor_weights_path=empty)
    empty.unlink()
    return made


def tf1_resize(frames, size):
    """uint8 [b, f, h, w, 3] -> [b, 3, f, size, size] as TensorFlow 1 resized them."""
    b, f = frames.shape[:2]
    x = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    resize = fidelity("interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x
    x = resize(x, (size, size), align_corners=False)
    return x.unflatten(0, (b, f)).transpose(1, 2)


def i3d(model, frames):
    return dict(logits=model(2 * tf1_resize(tensor(frames, model), 224) / 255 - 1))


def c3d(model, frames, mean):
    """As TGANv2: of frames in [-1, 1], times 128, BGR, resized, plus 128 - mean."""
    b, f = frames.shape[:2]
    x = (tensor(frames, model).float() - 128) / 128
    x = 128 * x.flip(-1).flatten(0, 1).permute(0, 3, 1, 2)
    x = functional.interpolate(x, (112, 112), mode="bilinear", align_corners=True)
    x = x.unflatten(0, (b, f)).transpose(1, 2)
    return dict(logits=model(x + 128 - tensor(mean, model)[:, :, 8:120, 8:120]))


def inception(model, frames):
    b, f = frames.shape[:2]
    x = tensor(frames, model).flatten(0, 1).permute(0, 3, 1, 2)
    pooled, logits = model(x)
    return dict(pool=pooled.unflatten(0, (b, f)), logits=logits.unflatten(0, (b, f)))


def clip(model, frames):
    """transformers' CLIP on frames that Pillow resizes and cuts as OpenAI's code has it."""
    b, f, h, w = frames.shape[:4]
    size = model.config.vision_config.image_size
    x, y = (int(size * side / min(h, w)) for side in (w, h))
    left, top = (round((side - size) / 2.0) for side in (x, y))
    pixels = []
    for frame in frames.reshape(b * f, h, w, 3):
        image = np.asarray(Image.fromarray(frame).resize((x, y), Image.Resampling.BICUBIC))
        pixels.append(image[top : top + size, left : left + size] / np.float32(255))
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    pixels = tensor((np.stack(pixels) - np.float32(mean)) / np.float32(std), model)
    seen = model.vision_model(pixels.permute(0, 3, 1, 2)).pooler_output
    return dict(embedding=model.visual_projection(seen).unflatten(0, (b, f)))
