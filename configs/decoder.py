"""The decoder: D on images, then D^t on clips without text (MAV §3.2).

    mav train --config configs/decoder.py:cutout,image --config.clip=runs/clip \
        --workdir runs/decoder_image
    mav train --config configs/decoder.py:cutout,video --config.clip=runs/clip \
        --config.init=runs/decoder_image --workdir runs/decoder

Sizes: cutout; karlo, to start from converted weights (--config.clip and --config.init take the
cascade's folder); paper. The last two have not been run.
"""

from ml_collections import ConfigDict

from configs import common

NETWORKS = dict(
    cutout=dict(  # the stem leaves few pixels with many channels, which are fast on a CPU
        width=48, multipliers=(2, 3), depth=1, attention_levels=(1,), head_dim=48, groups=16,
        patch=4, image_tokens=4, context_features=96, self_condition=True,
    ),
    karlo=dict(  # UNCLIP.md 2.2: 893.3M parameters, 1.18B with time layers
        width=320, multipliers=(1, 2, 3, 4), depth=3, attention_levels=(1, 2, 3), head_dim=64,
        groups=32, dropout=0.1, image_tokens=4, context_features=1536, text=True,
    ),
    paper=dict(  # unCLIP's width and depth; with time layers 3.0B of the paper's 3.1B
        width=512, multipliers=(1, 2, 3, 4), depth=3, attention_levels=(1, 2, 3), head_dim=64,
        groups=32, dropout=0.1, image_tokens=4, context_features=2048,
    ),
)  # fmt: skip
INPUTS = dict(  # what CLIP tells
    cutout=dict(embedding_features=128),
    karlo=dict(embedding_features=768, text_features=768, max_tokens=77),
    paper=dict(embedding_features=1024),
)


def get_config(arg: str | None = None) -> ConfigDict:
    size, phase = common.parse(arg, sizes=tuple(NETWORKS), phases=("image", "video"))
    video = phase == "video"
    c = common.get_base(size)
    c.stage = "decoder"
    c.size = 64  # pixels
    c.frames = 16 if video else 1
    if video:
        c.init_stage = "decoder"  # what it takes of a cascade that `init` names

    kind = "videos" if video else "images"
    if size == "cutout":
        common.cutout_data(c, kind, batch_size=2 if video else 32, size=64, crop=64)
        if video:  # it is sampled at 3 fps, where things go far
            c.data.fps_start, c.data.fps_end = (1.5, 1.0), (0.5, 2.0)
            c.data.stills = 4  # per clip
            c.data.held_prob = 0.15  # or trains, which no video shows, turn into cars
    else:
        common.real_data(c, kind, batch_size=512 if video else 2048, size=64, crop=64)
        if not video:
            c.data.caption_drop_prob = 0.3  # Karlo; without text in the network it does nothing

    c.inputs = ConfigDict(INPUTS[size])
    c.network = get_network(size, temporal=video)
    c.process = get_process(size)
    c.loss.cond_drop_prob = 0.1  # unCLIP, appendix C
    if size == "cutout":  # the outlines of things are decided in the noisier half
        # location and scale of logit(t / T); more noise for clips, whose frames tell of each other
        c.loss.logit_normal = (1.0, 1.4) if video else (0.4, 1.0)
        c.loss.perceptual = 0.3  # beside the squared error, most of which the background makes

    if size == "cutout":
        common.cutout_optimizer(c, learning_rate=1.2e-3, name="muon")  # half of AdamW's steps
        c.num_steps = 5_000 if video else 10_000
        c.save_every = 500
        c.eval.every = 500 if video else 1000
    else:
        c.num_steps = 100_000 if video else 800_000  # the paper leaves that of clips open
    return c


def get_network(size: str, temporal: bool) -> ConfigDict:
    """The U-Net of decoder and interpolation."""
    return ConfigDict(dict(NETWORKS[size], temporal=temporal, fps=temporal))


def get_process(size: str) -> ConfigDict:
    """The diffusion process of decoder and interpolation."""
    p = ConfigDict()
    p.schedule = "cosine"
    p.num_timesteps = 1000
    if size == "cutout":
        p.prediction = "x0"  # behind a space-to-depth stem eps and v leave noise
        p.weight_cap = 5.0
        p.shared_noise = 0.5  # a house is then drawn alike in all frames from the start
    else:
        p.prediction = "eps"
        p.variance = "learned_range"
    return p
