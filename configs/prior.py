"""The prior P on captioned images (unCLIP §2.2).

    mav train --config configs/prior.py:cutout --config.clip=runs/clip --workdir runs/prior

Sizes: cutout, karlo, paper. The last two have not been run.
"""

from ml_collections import ConfigDict

from configs import common

NETWORKS = dict(
    cutout=dict(embedding_features=128, width=128, depth=3, head_dim=32, max_tokens=32),
    karlo=dict(  # UNCLIP.md 2.2: 1022.0M parameters
        embedding_features=768, width=2048, depth=20, head_dim=64, max_tokens=77, dropout=0.2,
    ),
    paper=dict(  # 1.3B: unCLIP's width, and 26 layers where 24 would give 1.2B
        embedding_features=1024, width=2048, depth=26, head_dim=64, max_tokens=77,
    ),
)  # fmt: skip
TEXT_FEATURES = dict(cutout=96, karlo=768, paper=1024)


def get_config(arg: str | None = None) -> ConfigDict:
    size, _ = common.parse(arg, sizes=tuple(NETWORKS), phases=("image",))
    c = common.get_base(size)
    c.stage = "prior"

    if size == "cutout":
        common.cutout_data(c, "images", batch_size=256, size=64, crop=64)
        c.data.caption_drop_prob = 0.1
    else:
        common.real_data(c, "images", batch_size=4096, size=256, crop=256)
        c.data.caption_drop_prob = dict(karlo=0.2, paper=0.1)[size]

    c.network = ConfigDict(NETWORKS[size])
    c.inputs = ConfigDict(
        dict(
            embedding_features=c.network.embedding_features,
            text_features=TEXT_FEATURES[size],
            max_tokens=c.network.max_tokens,
        )
    )

    c.process = ConfigDict()
    c.process.schedule = "cosine"
    c.process.num_timesteps = 1000
    c.process.prediction = "x0"
    c.process.clip = 5.0  # whitened embeddings

    c.optimizer.weight_decay = 0.06
    if size == "cutout":
        common.cutout_optimizer(c, learning_rate=1e-3)
        c.num_steps = 3000
        c.save_every = 250
    else:
        c.optimizer.learning_rate = 1.1e-4
        c.optimizer.b2 = 0.96
        c.optimizer.eps = 1e-6
        c.num_steps = 600_000
    return c
