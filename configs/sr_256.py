"""Super-resolution to 256x256: on images, then space-time on clips (MAV §3.2).

    mav train --config configs/sr_256.py:cutout,image --workdir runs/sr_256_image
    mav train --config configs/sr_256.py:cutout,video --config.init=runs/sr_256_image \
        --workdir runs/sr_256

Sizes: cutout; karlo, to start from converted weights; paper. The last two have not been run.
"""

from ml_collections import ConfigDict

from configs import common

NETWORKS = dict(
    cutout=dict(  # at 32x32 after the stem, whose 384 numbers a place do not pass through 80
        width=40, multipliers=(2,), depth=1, groups=16, patch=8, residual=True, aug_level=True,
    ),
    karlo=dict(  # UNCLIP.md 2.2: 691.6M parameters, 0.87B with time layers
        width=320, multipliers=(1, 2, 3, 4), depth=3, groups=32, scale_shift=False,
    ),
    paper=dict(  # unCLIP's depth; 400 wide for the paper's 1.4B with time layers, 320 has 0.87B
        width=400, multipliers=(1, 2, 3, 4), depth=3, groups=16, scale_shift=False, dropout=0.1,
        aug_level=True,
    ),
)  # fmt: skip


def get_config(arg: str | None = None) -> ConfigDict:
    size, phase = common.parse(arg, sizes=tuple(NETWORKS), phases=("image", "video"))
    video = phase == "video"
    c = common.get_base(size)
    c.stage = "sr_256"
    c.size = 256  # pixels
    c.low_size = 64
    if video:
        c.init_stage = "sr_256"  # what it takes of a cascade that `init` names

    kind = "videos" if video else "images"
    if size == "cutout":
        c.frames = 8 if video else 1
        common.cutout_data(c, kind, batch_size=4 if video else 16, size=256, crop=128)
    else:
        c.frames = 16 if video else 1
        common.real_data(c, kind, batch_size=256 if video else 1024, size=256, crop=64)
    if video:
        c.data.fps_start = c.data.fps_end = (1.2, 1.2)  # around 15 fps, which it is given

    c.network = ConfigDict(dict(NETWORKS[size], low_res=True, temporal=video))
    c.process = get_process(size)
    c.loss.max_aug_level = dict(cutout=50, karlo=0, paper=200)[size]  # timesteps

    if size == "cutout":
        common.cutout_optimizer(c, learning_rate=1e-3, name="muon")
        c.num_steps = 600 if video else 3000
        c.save_every = 250
        c.eval.every = 1000
        c.eval.num_steps = 4
    else:
        c.num_steps = 100_000 if video else 1_000_000  # the paper leaves that of clips open
    return c


def get_process(size: str) -> ConfigDict:
    """The diffusion process of both super-resolutions."""
    p = ConfigDict()
    p.schedule = "cosine"
    p.num_timesteps = 1000
    if size == "cutout":
        p.prediction = "x0"
        p.weight_cap = 5.0
    else:
        p.prediction = "eps"
    return p
