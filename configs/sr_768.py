"""Super-resolution to 768x768, frame by frame, on crops of images (MAV §3.2.2).

mav train --config configs/sr_768.py:cutout --workdir runs/sr_768
"""

from ml_collections import ConfigDict

from configs import common, sr_256


def get_config(arg: str | None = None) -> ConfigDict:
    common.parse(arg, sizes=("cutout",), phases=("image",))
    c = common.get_base()
    c.stage = "sr_768"
    c.size = 768  # pixels
    c.low_size = 256

    common.cutout_data(c, "images", batch_size=16, size=768, crop=192)  # a quarter, as unCLIP

    c.network = ConfigDict()
    c.network.width = 40
    c.network.multipliers = (1,)  # at 64x64 after the stem
    c.network.depth = 1
    c.network.groups = 8
    c.network.patch = 12
    c.network.low_res = True
    c.network.aug_level = True

    c.process = sr_256.get_process()
    c.loss.max_aug_level = 100  # timesteps

    common.cutout_optimizer(c, learning_rate=6e-4)
    c.num_steps = 2500
    c.save_every = 250
    c.eval.every = 1000
    c.eval.num_steps = 2
    return c
