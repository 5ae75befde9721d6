"""Frame interpolation, from the video decoder, on clips without text (MAV §3.2.3).

    mav train --config configs/interpolation.py:cutout --config.clip=runs/clip \
        --config.init=runs/decoder --workdir runs/interpolation

Sizes: cutout, karlo, paper. The last two have not been run.
"""

from ml_collections import ConfigDict

from configs import common, decoder


def get_config(arg: str | None = None) -> ConfigDict:
    size, _ = common.parse(arg, sizes=tuple(decoder.NETWORKS), phases=("video",))
    c = common.get_base(size)
    c.stage = "interpolation"
    c.init_stage = "decoder"  # what it takes of a cascade that `init` names
    c.size = 64  # pixels
    c.frames = 16

    if size == "cutout":
        common.cutout_data(c, "videos", batch_size=4, size=64, crop=64)
    else:
        common.real_data(c, "videos", batch_size=512, size=64, crop=64)
    c.data.fps_start = c.data.fps_end = (1.2, 1.2)  # around 15 fps, five times the decoder's 3

    c.inputs = ConfigDict(decoder.INPUTS[size])
    c.network = decoder.get_network(size, temporal=True)
    c.network.keyframes = True
    c.network.residual = size == "cutout"  # a small network need not draw what it can move
    c.process = decoder.get_process(size)
    c.loss.cond_drop_prob = 0.1  # as the decoder
    c.loss.frame_skips = (3, 5)  # k, where every k-th frame is known
    # How often which frames are known, `stages.MASKS`.
    c.loss.masks = dict(every=0.6, first=0.15, last=0.05, ends=0.1, one=0.05, none=0.05)

    if size == "cutout":
        # Much noise leaves it to the known frames, which is where its few steps of sampling begin.
        c.loss.logit_normal = (1.5, 1.5)  # location and scale of logit(t / T)
        common.cutout_optimizer(c, learning_rate=1.2e-3, name="muon")
        c.num_steps = 1500
        c.save_every = 250
        c.eval.every = 500
    else:
        c.num_steps = 100_000  # the paper leaves it open
    return c
