"""The prior P on captioned images (unCLIP §2.2):
`mav train --config configs/prior.py:cutout --config.clip=runs/clip --workdir runs/prior`.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    common.parse(arg, sizes=("cutout",), phases=("image",))
    c = common.get_base()
    c.stage = "prior"

    common.cutout_data(c, "images", batch_size=256, size=64, crop=64)
    c.data.caption_drop_prob = 0.1

    c.inputs = ConfigDict(dict(embedding_features=128, text_features=96, max_tokens=32))
    c.network = ConfigDict()
    c.network.embedding_features = 128
    c.network.width = 128
    c.network.depth = 3
    c.network.head_dim = 32
    c.network.max_tokens = 32

    c.process = ConfigDict()
    c.process.schedule = "cosine"
    c.process.num_timesteps = 1000
    c.process.prediction = "x0"
    c.process.clip = 5.0  # whitened embeddings

    common.cutout_optimizer(c, learning_rate=1e-3)
    c.optimizer.weight_decay = 0.06
    c.num_steps = 3000
    c.save_every = 250
    return c
