import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
WITHOUT = '''
import runpy, sys
from importlib.machinery import PathFinder

class Base(PathFinder):
    """Finds all that is installed except for what a base install has not."""

    absent = {
        "tensorflow", "tensorflow_datasets", "tensorboard", "torch", "clu", "grain", "optax",
        "array_record", "diffusers", "transformers", "cv2",
    }

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in cls.absent:
            return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Base
'''


def run(code, *arguments):
    """Python as it would be after a base install. Returns what it prints."""
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_sampling_needs_is_in_the_base_install():
    code = """
import mav, mav.cli, mav.convert.features, mav.convert.unclip, mav.evaluate.cutout
import mav.evaluate.features, mav.sharding
mav.cli.make_parser()
cascade = mav.load("cutout")
image = cascade.text_to_image("a red ball", size=64, steps=dict(prior=1, decoder=1))
print(image.shape)
"""
    assert "(64, 64, 3)" in run(code)


def test_that_the_test_above_can_fail():
    with pytest.raises(AssertionError, match="No module named 'grain'"):
        run("import mav.train")


@pytest.mark.slow
def test_the_page_of_single_modules_runs_on_a_base_install():
    code = """
names = runpy.run_path("docs/run.py")["run"]("modules")
jax, key, clip, t = (names[name] for name in ("jax", "key", "clip", "t"))
# As if trained: a fresh U-Net answers zero.
noise = lambda p: p + 0.1 * jax.random.normal(key, p.shape)
image_params = jax.tree.map(noise, names["image_params"])
video_params = names["params"].inflate(image_params, names["video_params"])
found = jax.jit(names["video"].apply)({"params": video_params}, clip, t)
apply = jax.jit(names["image"].apply)
frames = [apply({"params": image_params}, clip[:, i : i + 1], t) for i in range(4)]
print("differs by", abs(found - jax.numpy.concatenate(frames, 1)).max(), "of", abs(found).max())
print(names["logits"].shape, names["sample"].shape, names["prediction"].shape)
print(names["output"].shape)
"""
    differs, small, large = run(code).splitlines()
    assert 0 <= float(differs.split()[2]) < 1e-4
    assert float(differs.split()[-1]) > 0.01
    assert small == "(1, 10) (1, 4, 16, 16, 3) (1, 32)"
    assert large == "(1, 16, 64, 64, 3)"
