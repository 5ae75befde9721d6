"""Super-resolution to 768x768, frame by frame, on crops of images (MAV §3.2.2).

    mav train --config configs/sr_768.py:cutout --workdir runs/sr_768

Sizes: cutout; karlo, which can start from the converted sr_256 (--config.init_stage=sr_256), since
Karlo ends at 256x256; paper. The last two have not been run.
"""

from ml_collections import ConfigDict

from configs import common, sr_256

NETWORKS = dict(
    cutout=dict(  # at 96x96 after the stem: 7 pixels of its input have a place there
        width=48, multipliers=(1,), depth=2, groups=8, patch=8, residual=True, aug_level=True,
    ),
    karlo=sr_256.NETWORKS["karlo"],
    paper=dict(  # 0.7B, as the first of unCLIP's two
        width=320, multipliers=(1, 2, 3, 4), depth=3, groups=32, scale_shift=False, aug_level=True,
    ),
)  # fmt: skip


def get_config(arg: str | None = None) -> ConfigDict:
    size, _ = common.parse(arg, sizes=tuple(NETWORKS), phases=("image",))
    c = common.get_base(size)
    c.stage = "sr_768"
    c.init_stage = "sr_768"  # what it takes of a cascade that `init` names
    c.size = 768  # pixels
    c.low_size = 256

    if size == "cutout":
        common.cutout_data(c, "images", batch_size=16, size=768, crop=192)  # a quarter, as unCLIP
    else:
        common.real_data(c, "images", batch_size=512, size=768, crop=192)

    c.network = ConfigDict(dict(NETWORKS[size], low_res=True))
    c.process = sr_256.get_process(size)
    c.process.shared_noise = 1.0  # or details flicker, MAV §3.2.2
    c.loss.max_aug_level = dict(cutout=50, karlo=0, paper=100)[size]  # timesteps

    if size == "cutout":
        common.cutout_optimizer(c, learning_rate=1e-3, name="muon")
        c.num_steps = 2500
        c.save_every = 250
        c.eval.every = 1000
        c.eval.num_steps = 2
    else:
        c.optimizer.learning_rate = 1e-4
        c.num_steps = 1_000_000
    return c
