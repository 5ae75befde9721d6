"""What the configs of all stages share."""

from ml_collections import ConfigDict, config_dict


def parse(arg: str | None, sizes: tuple[str, ...], phases: tuple[str, ...]) -> tuple[str, str]:
    """Splits "size,phase"; the phase may be left out where a stage has only one.

    Raises ValueError for a name that the stage does not have.
    """
    size, _, phase = (arg or sizes[0]).partition(",")
    phase = phase or phases[-1]
    for value, allowed, what in ((size, sizes, "size"), (phase, phases, "phase")):
        if value not in allowed:
            raise ValueError(f"{what}={value!r} is unknown here; choose {', '.join(allowed)}.")
    return size, phase


def get_base(size: str) -> ConfigDict:
    """Values that hold unless a stage's config says otherwise."""
    c = ConfigDict()
    c.seed = 0  # of parameters, noise and the order of examples
    c.clip = config_dict.placeholder(str)  # run or cascade whose CLIP tells the stage what to draw
    c.init = config_dict.placeholder(str)  # run or cascade to start from
    # In which networks compute; parameters and statistics are float32.
    c.dtype = "float32" if size == "cutout" else "bfloat16"
    # What the backward pass computes again: "blocks" or "products" save memory, "none" saves time.
    c.remat = "none" if size == "cutout" else "blocks"
    c.scan = size != "cutout"  # loop over blocks of one shape: compiles sooner; slow on CPUs
    c.microbatches = 1  # parts of a batch, one after the other, which saves memory too
    c.max_skipped = 20  # steps in a row with gradients that are not finite, before it stops
    c.loss = ConfigDict()

    c.optimizer = ConfigDict()  # PAPER.md 1.7
    c.optimizer.name = "adamw"  # or "muon"
    c.optimizer.learning_rate = 1.2e-4  # at its highest
    c.optimizer.warmup_steps = 1000  # in which it rises to that
    c.optimizer.cooldown = 0.0  # share of the steps, the last ones, in which it falls to zero
    c.optimizer.b1 = 0.9  # how much the mean of gradients keeps per step
    c.optimizer.b2 = 0.999  # likewise of their squares
    c.optimizer.eps = 1e-8  # below what their root divides
    c.optimizer.weight_decay = 0.0  # of kernels
    c.optimizer.clip_norm = 1.0  # longer gradients are shortened to it
    c.optimizer.ema_decay = 0.9999  # of the averaged parameters, per step
    c.optimizer.trainable = "all"  # or "temporal"; the paper says both (MAV §3.2.2, §3.4)

    c.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1, context=1))  # -1: all other devices

    c.profile_at = config_dict.placeholder(int)  # step from which five are recorded in detail
    c.log_every = 50  # steps
    c.save_every = 1000  # steps
    c.eval = ConfigDict()
    c.eval.every = 2000  # steps, pictures of samples
    c.eval.num_examples = 8  # of the test split
    c.eval.num_steps = 20  # of the sampler
    return c


def cutout_data(c: ConfigDict, kind: str, batch_size: int, size: int, crop: int) -> None:
    """The cutout world as data: kind is "images" or "videos"."""
    c.data = ConfigDict()
    c.data[kind] = "cutout"  # or the folder of a set that `mav data build` made
    c.data.split = "train"
    c.data.seed = c.seed  # of the order of examples
    c.data.batch_size = batch_size  # examples, on all devices
    c.data.size = size  # pixels, of the whole picture
    c.data.crop = crop  # pixels, of the window that is learned from
    c.data.crop_at = "random"  # or "centre"
    c.data.flip_prob = 0.0  # captions say left and right
    c.data.workers = 0  # processes that read and decode, beside this one; 0 leaves it to this one
    c.data.threads = 1  # of each; two cores are best left to the network
    c.data.prefetch = 64  # examples
    if kind == "images":
        c.data.caption_drop_prob = 0.0  # chance of an empty caption, for guidance
    else:
        c.data.fps_start = (3.0, 1.0)  # Beta over 1..30: little motion at first (MAV §3.4)
        c.data.fps_end = (0.6, 1.2)  # and at the last step
        c.data.stills = 0  # single images beside each clip, so that nothing of them is forgotten
        c.data.stills_from = "cutout"  # images, where they come from
        c.data.held_prob = 0.0  # chance that a clip is one of its stills, held at 120 fps


def real_data(c: ConfigDict, kind: str, batch_size: int, size: int, crop: int) -> None:
    """As `cutout_data`, of a set that --config.data.images or --config.data.videos names."""
    cutout_data(c, kind, batch_size, size, crop)
    c.data[kind] = config_dict.placeholder(str)
    if kind == "videos":
        c.data.stills_from = config_dict.placeholder(str)
        c.data.flip_prob = 0.5
    elif crop == size:
        c.data.crop_at = "centre"  # as captions mean it
    c.data.workers = 8
    c.data.threads = 2
    c.data.prefetch = 1024


def cutout_optimizer(c: ConfigDict, learning_rate: float, name: str = "adamw") -> None:
    """Small networks learn fast and are averaged over less."""
    c.optimizer.name = name
    c.optimizer.learning_rate = learning_rate
    c.optimizer.warmup_steps = 200
    c.optimizer.cooldown = 0.2
    c.optimizer.b2 = 0.99
    c.optimizer.ema_decay = 0.999
