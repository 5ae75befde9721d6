"""The decoder: D on images, then D^t on clips without text (MAV §3.2).

    mav train --config configs/decoder.py:cutout,image --config.clip=runs/clip \
        --workdir runs/decoder_image
    mav train --config configs/decoder.py:cutout,video --config.clip=runs/clip \
        --config.init=runs/decoder_image --workdir runs/decoder
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    _, phase = common.parse(arg, sizes=("cutout",), phases=("image", "video"))
    c = common.get_base()
    c.stage = "decoder"
    c.size = 64  # pixels
    c.frames = 16 if phase == "video" else 1
    if phase == "video":
        common.cutout_data(c, "videos", batch_size=4, size=64, crop=64)
        c.init_stage = "decoder"
    else:
        common.cutout_data(c, "images", batch_size=32, size=64, crop=64)

    c.inputs = ConfigDict(dict(embedding_features=128))
    c.network = get_network(temporal=phase == "video")
    c.process = get_process()
    c.loss.cond_drop_prob = 0.1  # unCLIP, appendix C

    common.cutout_optimizer(c, learning_rate=6e-4)
    c.num_steps = 12_000 if phase == "image" else 4_000
    c.save_every = 500
    c.eval.every = 1000 if phase == "image" else 500
    return c


def get_network(temporal: bool) -> ConfigDict:
    """The U-Net of decoder and interpolation."""
    n = ConfigDict()
    n.width = 48
    n.multipliers = (2, 3)  # at 16x16 and 8x8 after the stem
    n.depth = 1
    n.attention_levels = (1,)
    n.head_dim = 48
    n.groups = 16
    n.patch = 4  # few pixels with many channels are fast on a CPU
    n.image_tokens = 4
    n.context_features = 96
    n.temporal = temporal
    n.fps = temporal
    return n


def get_process() -> ConfigDict:
    """The diffusion process of decoder and interpolation."""
    p = ConfigDict()
    p.schedule = "cosine"
    p.num_timesteps = 1000
    p.prediction = "x0"  # behind a space-to-depth stem eps and v leave noise
    p.weight_cap = 25.0
    return p
