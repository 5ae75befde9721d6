"""Super-resolution to 256x256: on images, then space-time on clips (MAV §3.2).

    mav train --config configs/sr_256.py:cutout,image --workdir runs/sr_256_image
    mav train --config configs/sr_256.py:cutout,video --config.init=runs/sr_256_image \
        --workdir runs/sr_256
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    _, phase = common.parse(arg, sizes=("cutout",), phases=("image", "video"))
    video = phase == "video"
    c = common.get_base()
    c.stage = "sr_256"
    c.size = 256  # pixels
    c.low_size = 64
    c.frames = 8 if video else 1
    if video:
        common.cutout_data(c, "videos", batch_size=4, size=256, crop=128)
        c.data.fps_start = c.data.fps_end = (1.2, 1.2)  # around 15 fps, which it is given
        c.init_stage = "sr_256"
    else:
        common.cutout_data(c, "images", batch_size=16, size=256, crop=128)

    c.network = ConfigDict()
    c.network.width = 40
    c.network.multipliers = (2,)  # at 32x32 after the stem
    c.network.depth = 1
    c.network.groups = 16
    c.network.patch = 8
    c.network.low_res = True
    c.network.aug_level = True
    c.network.temporal = video

    c.process = get_process()
    c.loss.max_aug_level = 200  # timesteps

    common.cutout_optimizer(c, learning_rate=6e-4)
    c.num_steps = 3000 if phase == "image" else 600
    c.save_every = 250
    c.eval.every = 1000
    c.eval.num_steps = 4
    return c


def get_process() -> ConfigDict:
    """The diffusion process of both super-resolutions."""
    p = ConfigDict()
    p.schedule = "cosine"
    p.num_timesteps = 1000
    p.prediction = "x0"
    p.weight_cap = 5.0
    return p
