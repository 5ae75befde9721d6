"""CLIP on captioned images.

    mav train --config configs/clip.py:cutout --workdir runs/clip

Sizes: cutout; karlo (ViT-L/14) and paper (ViT-H/14), whose released weights are meant to be
converted and not trained: their batch is that of CLIP, which has not been run here.
"""

from ml_collections import ConfigDict

from configs import common
from mav import clip

NETWORKS = dict(
    cutout=dict(
        embedding_features=128, vocabulary_size=600, max_tokens=32, end_token=599,
        text_width=96, text_depth=2, text_head_dim=32,
        image_size=64, patch=8, image_width=128, image_depth=3, image_head_dim=32,
        activation="quick_gelu", image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5),
    ),
    karlo=dict(clip.MODELS["ViT-L/14"], normalized=False),
    paper=clip.MODELS["ViT-H/14"],
)  # fmt: skip


def get_config(arg: str | None = None) -> ConfigDict:
    size, _ = common.parse(arg, sizes=tuple(NETWORKS), phases=("image",))
    c = common.get_base(size)
    c.stage = "clip"

    if size == "cutout":
        common.cutout_data(c, "images", batch_size=256, size=64, crop=64)
        c.data.tokenizer_captions = 20_000  # from which byte pairs are learned
    else:
        common.real_data(c, "images", batch_size=32_768, size=224, crop=224)
        c.data.tokenizer_captions = 1_000_000

    c.network = ConfigDict(NETWORKS[size])

    if size == "cutout":
        common.cutout_optimizer(c, learning_rate=1e-3)
        c.optimizer.weight_decay = 0.05
        c.num_steps = 4000
        c.save_every = 250
    else:
        c.optimizer.learning_rate = 4e-4
        c.optimizer.b2 = 0.98
        c.optimizer.eps = 1e-6
        c.optimizer.weight_decay = 0.2
        c.num_steps = 400_000
    return c
