"""How far each network's output in bfloat16 is from that in float32.

    .venv/bin/python tests/benchmarks/precision.py [cutout karlo]

Prints a Markdown table of relative errors (root mean square): of the shipped weights (cutout), and
of random weights at full size (karlo), whose decoder takes 8 GB and minutes on two cores.
"""

import sys

import jax
import jax.numpy as jnp
from tqdm.auto import tqdm

from mav import bench, folders, recipe, sharding, stages
from mav import params as params_lib
from mav.commands import config_files

STAGES = dict(
    clip="", prior="", decoder="video", interpolation="video", sr_256="video", sr_768="image"
)


def error(size: str, name: str, phase: str) -> tuple[float, float]:
    """Relative error of a stage on random examples, and millions of parameters."""
    path = f"configs/{name}.py:{size}" + (f",{phase}" if phase else "")
    batch_size = 8 if name == "clip" else 1  # CLIP answers with a table: all images by all texts
    config = config_files.read(path, [f"--config.data.batch_size={batch_size}"])
    if "stills" in config.data:
        config.data.stills = 0
    folder, shipped = folders.resolve(size), size in folders.built_in()
    if shipped:
        config.network = params_lib.read_json(folder / name / "config.json")["network"]
    mesh, key = sharding.make_mesh(dict(data=1)), jax.random.key(0)
    made, state, batch, parents = recipe.shapes(config, config_files.read_clip(path), mesh)
    if shipped:
        _, params = folders.load_stage(folder, name)
    else:
        params = jax.jit(lambda key: bench.noise(state.params, key))(key)
    parents = {parent: bench.noise(leaves, key) for parent, leaves in parents.items()}
    batch = bench.random_batch(config, batch)
    together = made.together(parents)
    inputs = bench.network_inputs(made.stage, made.loss, params, batch, key, together)

    def output(dtype):
        network = stages.build(config, dtype).network
        found = jax.jit(network.apply)({"params": params}, **inputs)
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(found)])

    wanted, found = output("float32"), output("bfloat16")
    relative = jnp.sqrt(jnp.mean((found - wanted) ** 2) / jnp.mean(wanted**2))
    return float(relative), sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6


if __name__ == "__main__":
    print("| weights | network | parameters | error of bfloat16 |\n|---|---|---|---|")
    for size in sys.argv[1:] or ("cutout", "karlo"):
        for name, phase in tqdm(STAGES.items(), desc=size, leave=False):
            relative, millions = error(size, name, phase)
            print(f"| {size} | `{name}` | {millions:.1f}M | {relative:.2%} |", flush=True)
