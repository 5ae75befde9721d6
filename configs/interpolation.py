"""Frame interpolation, from the video decoder, on clips without text (MAV §3.2.3).

    mav train --config configs/interpolation.py:cutout --config.clip=runs/clip \
        --config.init=runs/decoder --workdir runs/interpolation
"""

from ml_collections import ConfigDict

from configs import common, decoder


def get_config(arg: str | None = None) -> ConfigDict:
    common.parse(arg, sizes=("cutout",), phases=("video",))
    c = common.get_base()
    c.stage = "interpolation"
    c.init_stage = "decoder"
    c.size = 64  # pixels
    c.frames = 16

    common.cutout_data(c, "videos", batch_size=4, size=64, crop=64)
    c.data.fps_start = c.data.fps_end = (1.2, 1.2)  # around 15 fps, five times the decoder's 3

    c.inputs = ConfigDict(dict(embedding_features=128))
    c.network = decoder.get_network(temporal=True)
    c.network.keyframes = True
    c.process = decoder.get_process()
    c.loss.cond_drop_prob = 0.1
    c.loss.frame_skips = (3, 5)
    c.loss.masks = dict(every=0.6, first=0.15, last=0.05, ends=0.1, one=0.05, none=0.05)

    common.cutout_optimizer(c, learning_rate=6e-4)
    c.num_steps = 1500
    c.save_every = 250
    c.eval.every = 500
    return c
