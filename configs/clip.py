"""CLIP on captioned images: `mav train --config configs/clip.py:cutout --workdir runs/clip`."""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    common.parse(arg, sizes=("cutout",), phases=("image",))
    c = common.get_base()
    c.stage = "clip"

    common.cutout_data(c, "images", batch_size=256, size=64, crop=64)
    c.data.tokenizer_captions = 20_000  # from which byte pairs are learned

    c.network = ConfigDict()
    c.network.embedding_features = 128
    c.network.vocabulary_size = 600
    c.network.max_tokens = c.data.max_tokens
    c.network.end_token = 599
    c.network.text_width = 96
    c.network.text_depth = 2
    c.network.image_size = 64  # pixels
    c.network.patch = 8
    c.network.image_width = 128
    c.network.image_depth = 3
    c.network.head_dim = 32
    c.network.activation = "quick_gelu"
    c.network.image_mean = (0.5, 0.5, 0.5)
    c.network.image_std = (0.5, 0.5, 0.5)

    common.cutout_optimizer(c, learning_rate=1e-3)
    c.optimizer.weight_decay = 0.05
    c.num_steps = 1500
    c.save_every = 250
    return c
