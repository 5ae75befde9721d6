"""Turns a file of PyTorch into safetensors: `python torch_file.py SOURCE DESTINATION`.

A program of its own, run by whatever Python has torch; mav itself never opens pickles. A state dict
is read with weights_only, which builds nothing but tensors. A TorchScript file holds a program,
which is not run.
"""

import json
import sys
import zipfile

import torch


def tensors(path: str) -> dict[str, torch.Tensor]:
    """All tensors of the file by name, of a dict within it as dotted names."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if any("/code/" in name for name in file.namelist()):
                return torch.jit.load(path, map_location="cpu").state_dict()
    found, flat = torch.load(path, map_location="cpu", weights_only=True), {}

    def walk(prefix: str, value) -> None:
        if isinstance(value, torch.Tensor):
            flat[prefix] = value
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else str(name), inner)

    walk("", found)
    return flat


def main(source: str, destination: str) -> None:
    """Writes floating-point tensors as float32; counters and the like are left out."""
    found = {k: v for k, v in tensors(source).items() if v.is_floating_point()}
    header, end = {}, 0
    for name, value in found.items():
        begin, end = end, end + 4 * value.numel()
        header[name] = dict(dtype="F32", shape=list(value.shape), data_offsets=[begin, end])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(destination, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in found.values():
            values = value.detach().to(torch.float32).contiguous().numpy()
            file.write(values.astype("<f4", copy=False).tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
