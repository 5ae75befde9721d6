import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from scipy import ndimage

import noise
import slow
from configs import decoder as decoder_config
from configs import sr_256 as sr_256_config
from mav import layers, unet
from mav import params as params_lib
from noise import normal

TINY = dict(width=8, multipliers=(1, 2), depth=1, head_dim=4, groups=4)
DECODER = dict(
    TINY, multipliers=(2, 1), attention_levels=(1,), image_tokens=2, context_features=12, fps=True
)
VIDEO_NETWORKS = dict(
    decoder=DECODER,
    decoder_behind_patches=dict(DECODER, patch=2),
    decoder_with_text_and_learned_variance=dict(DECODER, text=True, learns_variance=True),
    sr=dict(TINY, low_res=True, aug_level=True),
    sr_of_what_is_missing=dict(TINY, low_res=True, residual=True),
    sr_with_shift_behind_patches=dict(
        TINY, low_res=True, aug_level=True, scale_shift=False, patch=2, learns_variance=True
    ),
    one_level=dict(TINY, multipliers=(1,), depth=2, attention_levels=(0,)),
    karlo_decoder=dict(
        decoder_config.NETWORKS["karlo"], width=32, head_dim=16, learns_variance=True, fps=True
    ),
    karlo_sr=dict(sr_256_config.NETWORKS["karlo"], width=32, low_res=True),
)
SLOW = ("decoder", "sr", "one_level", "karlo_decoder", "karlo_sr")  # others have their parts
FRAMES = 4


def inputs(frames=FRAMES):
    """Arguments of every kind; a network reads those that it takes."""
    video = lambda seed, channels=3: normal((2, frames, 8, 8, channels), seed)
    return dict(
        x=video(0),
        t=np.array([3, 700]),
        image_embedding=normal((2, 6), 1),
        drop_image=np.array([False, True]),
        text_embedding=normal((2, 6), 2),
        text_states=normal((2, 5, 7), 3),
        text_mask=np.arange(5)[None] < np.array([[2], [5]]),
        low_res=video(4),
        aug_level=np.array([0.0, 40.0], np.float32),
        fps=np.array([3.0, 15.0], np.float32),
        last_x0=video(7),
        keyframes=video(5),
        mask=(video(6, 1) > 0).astype(np.float32),
        frame_skip=np.array([1.0, 5.0], np.float32),
    )


def each_frame_alone(arguments):
    """The same arguments with every frame as a video of its own."""

    def split(value):
        if value.ndim == 5:
            return value.reshape(-1, 1, *value.shape[2:])
        return np.repeat(value, arguments["x"].shape[1], axis=0)

    return {name: split(value) for name, value in arguments.items()}


# Compiling takes nearly all of the time here, so XLA may save its optimisations.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def apply(network, params, arguments):
    return np.asarray(jit(network.apply)({"params": params}, **arguments))


def shapes(network):
    init = lambda: network.init(jax.random.key(0), **inputs(1))["params"]
    return jax.eval_shape(init)


def fresh(network, without):
    """A network's own initial values, zeros in place of the parameters that `without` has."""
    left_out = params_lib.flatten(shapes(without))

    @jit
    def draw():
        flat = params_lib.flatten(network.init(jax.random.key(0), **inputs(1))["params"])
        return {name: leaf for name, leaf in flat.items() if name not in left_out}

    return params_lib.unflatten(draw() | jax.tree.map(lambda s: np.zeros(s.shape), left_out))


def image_and_video(config):
    """An image network with random parameters, and the video network inflated from it."""
    image = unet.SpaceTimeUNet(**{**config, "fps": False})
    video = unet.SpaceTimeUNet(**config, temporal=True)
    image_params = noise.params(shapes(image))
    return image, image_params, video, params_lib.inflate(image_params, fresh(video, image))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in VIDEO_NETWORKS],
)
def test_a_fresh_video_network_equals_the_image_network_on_every_frame(name):
    """Invariant 1, for videos of four frames and of one."""
    image, image_params, video, video_params = image_and_video(VIDEO_NETWORKS[name])
    several = inputs()
    by_frame = apply(image, image_params, each_frame_alone(several))
    by_frame = by_frame.reshape(2, FRAMES, *by_frame.shape[2:])
    assert by_frame.std() > 0.1
    assert by_frame.shape[-1] == (6 if video.learns_variance else 3)
    np.testing.assert_allclose(apply(video, video_params, several), by_frame, atol=2e-5)
    one = {key: value[:, :1] if value.ndim == 5 else value for key, value in several.items()}
    np.testing.assert_allclose(apply(video, video_params, one), by_frame[:, :1], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["karlo_decoder", "karlo_sr"])
def test_at_full_width_too(name):
    """Invariant 1 at the released size, 0.9 and 1.2 billion parameters: 5 GB, some minutes."""
    full = dict(karlo_decoder=dict(width=320, head_dim=64), karlo_sr=dict(width=320))
    image, image_params, video, video_params = image_and_video(VIDEO_NETWORKS[name] | full[name])
    few = {k: v[:1, :2] if v.ndim == 5 else v[:1] for k, v in inputs().items()}
    by_frame = apply(image, image_params, each_frame_alone(few))[:, 0]
    found = apply(video, video_params, few)[0]
    np.testing.assert_allclose(found, by_frame, atol=1e-4 * by_frame.std())


@pytest.mark.parametrize("name", VIDEO_NETWORKS)
def test_image_parameters_are_a_part_of_the_video_networks(name):
    """Invariant 2. What is added is what `is_temporal` knows, for training that alone."""
    config = VIDEO_NETWORKS[name]
    image = params_lib.flatten(shapes(unet.SpaceTimeUNet(**{**config, "fps": False})))
    video = params_lib.flatten(shapes(unet.SpaceTimeUNet(**config, temporal=True)))
    assert set(image) < set(video)
    assert all(image[parameter].shape == video[parameter].shape for parameter in image)
    added = {parameter for parameter in video if params_lib.is_temporal(parameter)}
    assert added == set(video) - set(image)


@pytest.mark.parametrize("kind", ["convolution", "attention"])
def test_a_trained_time_layer_lets_frames_see_each_other(kind):
    """That the tests above can fail."""
    _, _, video, params = image_and_video(DECODER)
    changed = inputs()
    changed["x"] = changed["x"].copy()
    changed["x"][:, -1] += 1
    flat = params_lib.flatten(params)
    ends = dict(convolution="time/kernel", attention="/time/out/kernel")
    trained = {
        name: leaf + 0.1 * normal(leaf.shape) if name.endswith(ends[kind]) else leaf
        for name, leaf in flat.items()
    }
    run = jit(video.apply)
    first_frames = lambda flat: [
        run({"params": params_lib.unflatten(flat)}, **arguments)[:, 0]
        for arguments in (inputs(), changed)
    ]
    np.testing.assert_array_equal(*first_frames(flat))
    assert np.abs(np.subtract(*first_frames(trained))).max() > 1e-4


@pytest.mark.parametrize(
    "name", ["decoder", "decoder_behind_patches", "decoder_with_text_and_learned_variance"]
)
def test_fresh_interpolation_equals_the_decoder_whatever_is_masked(name):
    """Invariant 3, with a decoder whose time layers are trained."""
    config = dict(VIDEO_NETWORKS[name], temporal=True)
    decoder = unet.SpaceTimeUNet(**config)
    interpolation = unet.SpaceTimeUNet(**config, keyframes=True)
    decoder_params = noise.params(shapes(decoder))
    params = params_lib.inflate(decoder_params, enlarged(interpolation, decoder))
    run = jit(interpolation.apply)
    given = inputs()
    nothing = {key: np.zeros_like(given[key]) for key in ("keyframes", "mask")}
    right = apply(decoder, decoder_params, given)
    for arguments in (given, {**given, **nothing}):
        np.testing.assert_allclose(run({"params": params}, **arguments), right, atol=2e-5)


def enlarged(interpolation, decoder):
    """Initial values of the interpolation; its wider input kernel is not worth drawing."""
    params = params_lib.flatten(fresh(interpolation, decoder))
    wider = params_lib.flatten(shapes(interpolation))["input/space/kernel"]
    return params_lib.unflatten(params | {"input/space/kernel": np.ones(wider.shape)})


@pytest.mark.slow
def test_a_loop_over_blocks_of_one_shape_is_the_same():
    """Values and gradients, with fewer convolutions in the program."""
    config = dict(DECODER, multipliers=(1, 2), depth=3, temporal=True, remat="blocks")
    networks = [unet.SpaceTimeUNet(**config, scan=scan) for scan in (False, True)]
    params, arguments = noise.params(shapes(networks[0])), inputs()
    assert shapes(networks[1]) == shapes(networks[0])

    def convolutions(network):
        program = jax.make_jaxpr(network.apply)({"params": params}, **arguments)
        return str(program).count("conv_general_dilated[")

    # 18 blocks with 4 each. Loops take the 3 of level 0 and 2 of level 1 on the way down, the first
    # 3 of level 1 and the last 3 of level 0 on the way up.
    assert [convolutions(network) for network in networks] == [18 * 4 + 4, 11 * 4 + 4]

    def loss(params, network):
        y = network.apply({"params": params}, **arguments)
        return (y * normal(y.shape, 8)).mean(), y

    grad = jit(jax.grad(loss, has_aux=True), static_argnums=1)
    (grads, y), (looped_grads, looped) = (grad(params, network) for network in networks)
    np.testing.assert_allclose(looped, y, atol=1e-5)
    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(close, looped_grads, grads)


def test_a_fresh_network_of_what_is_missing_gives_its_low_resolution_input():
    network, arguments = unet.SpaceTimeUNet(**TINY, low_res=True, residual=True), inputs()
    found, _ = jax.jit(network.init_with_output)(jax.random.key(0), **arguments)
    np.testing.assert_array_equal(found, arguments["low_res"])


@pytest.mark.parametrize("known", [[0, 5, 10, 15], [0], [15], [3, 7], [0, 15], list(range(16))])
def test_neighbours_fade_into_numpys_interpolation(known):
    video = normal((2, 16, 3, 2, 3))
    mask = np.zeros((2, 16, 3, 2, 1), np.float32)
    mask[:, known] = 1
    before, after, place = layers.neighbours(video * mask, mask)
    along = lambda values: np.interp(np.arange(16), known, values[known])
    wanted = np.apply_along_axis(along, 1, video)
    np.testing.assert_allclose((1 - place) * before + place * after, wanted, atol=1e-6)
    outside = [i - np.clip(i, known[0], known[-1]) for i in range(16)]
    for i in np.flatnonzero(outside):
        np.testing.assert_allclose(place[:, i], outside[i] / 16, atol=1e-6)
        np.testing.assert_array_equal(before[:, i], after[:, i])
    for nothing in layers.neighbours(video * 0, mask * 0):
        assert not np.any(nothing)


def test_warping_samples_as_scipy_does():
    images, offsets = normal((2, 3, 5, 7, 3)), 3 * normal((2, 3, 5, 7, 2), 1)
    found = jax.jit(layers.warp)(images, offsets)
    for index in np.ndindex(2, 3):
        places = np.indices((5, 7)) + np.moveaxis(offsets[index], -1, 0)
        for c in range(3):
            image = images[index][..., c]
            wanted = ndimage.map_coordinates(image, places, order=1, mode="nearest")
            np.testing.assert_allclose(found[index][..., c], wanted, atol=1e-5)


def test_a_fresh_interpolation_holds_and_fades_its_keyframes():
    network, arguments = unet.SpaceTimeUNet(**DECODER, keyframes=True, residual=True), inputs()
    arguments["mask"][:] = [[[[[i == 1]]] for i in range(FRAMES)]]
    arguments["keyframes"] *= arguments["mask"]
    found, _ = jax.jit(network.init_with_output)(jax.random.key(0), **arguments)
    wanted = np.repeat(arguments["keyframes"][:, 1:2], FRAMES, axis=1)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_an_interpolation_moves_its_keyframes():
    network, arguments = unet.SpaceTimeUNet(**DECODER, keyframes=True, residual=True), inputs()
    arguments["mask"][:] = [[[[[i == 0]]] for i in range(FRAMES)]]
    arguments["keyframes"] *= arguments["mask"]
    params = params_lib.flatten(network.init(jax.random.key(0), **arguments)["params"])
    motion = np.array([0, 1, 0, 1, 0], np.float32) / unet.MOTION  # all comes from one to the right
    params["motion/space/bias"] = np.tile(motion, network.patch**2)
    found = apply(network, params_lib.unflatten(params), arguments)
    first = arguments["keyframes"][:, :1]
    wanted = np.concatenate([first[..., 1:, :], first[..., -1:, :]], axis=-2)
    np.testing.assert_allclose(found, np.repeat(wanted, FRAMES, axis=1), atol=1e-5)


def test_dropout_is_that_of_flax():
    x, rngs = normal((4, 5), 0), dict(dropout=jax.random.key(1))
    found = layers.Dropout(0.3).apply({}, x, True, rngs=rngs)
    assert (found == 0).any()
    expected = nn.Dropout(0.3, deterministic=False).apply({}, x, rngs=rngs)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(layers.Dropout(0.3).apply({}, x, False), x)


def test_a_network_that_is_told_of_the_last_step_starts_without_it():
    before = unet.SpaceTimeUNet(**DECODER)
    after = unet.SpaceTimeUNet(**DECODER, self_condition=True)
    params = noise.params(shapes(before))
    inflated = params_lib.inflate(params, shapes(after))
    right = apply(before, params, inputs())
    np.testing.assert_allclose(apply(after, inflated, inputs()), right, atol=1e-5)
    moved = params_lib.flatten(inflated)
    moved["input/space/kernel"] = moved["input/space/kernel"].at[..., 3:, :].set(0.1)
    assert (np.abs(apply(after, params_lib.unflatten(moved), inputs()) - right) > 1e-3).any()


def test_a_dropped_image_embedding_is_the_learned_null():
    network = unet.SpaceTimeUNet(**{**DECODER, "fps": False})
    params = noise.params(shapes(network))
    run = lambda embedding, drop: network_run(
        {"params": params},
        **{**inputs(), "image_embedding": embedding, "drop_image": np.array([drop, drop])},
    )
    network_run = jit(network.apply)
    null = np.tile(params["conditioning"]["null_image"], (2, 1))
    dropped = run(normal((2, 6), 1), True)
    np.testing.assert_array_equal(dropped, run(normal((2, 6), 2), True))
    np.testing.assert_array_equal(dropped, run(null, False))
    assert (dropped != run(normal((2, 6), 1), False)).any()


def test_the_parameters_of_a_small_network_add_up():
    config = dict(width=4, multipliers=(1,), depth=1, groups=2)
    network = unet.SpaceTimeUNet(**config, temporal=True)
    timestep = (4 * 16 + 16) + (16 * 16 + 16)
    time = lambda c: 3 * c * c + c
    space = lambda c, d: 9 * c * d + d + time(d)
    block = lambda c: 2 * c + space(c, 4) + (16 * 8 + 8) + 2 * 4 + space(4, 4)
    shortcut = 8 * 4 + 4
    up = block(8) + shortcut  # joined with a skip
    whole = timestep + space(3, 4) + block(4) + 2 * block(4) + 2 * up + 2 * 4 + space(4, 3)
    assert params_lib.count(shapes(network)) == whole


# Layers


def test_sinusoids_are_cosines_then_sines():
    found = layers.sinusoids(np.array([0.0, 7.0]), 6)
    rates = [1, 10000 ** (-1 / 3), 10000 ** (-2 / 3)]
    right = [np.cos(7 * np.array(rates)), np.sin(7 * np.array(rates))]
    np.testing.assert_allclose(found[0], [1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(found[1], np.concatenate(right), atol=1e-6)


def test_group_norm_takes_its_statistics_from_each_frame_alone():
    x = normal((2, 3, 4, 4, 6)) * np.arange(1, 4, dtype=np.float32).reshape(1, 3, 1, 1, 1)
    scale, bias = normal(6, 1), normal(6, 2)
    y = layers.GroupNorm(2).apply({"params": dict(scale=scale, bias=bias)}, x)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_allclose(y[i, j], slow.group_norm(x[i, j], 2, scale, bias), atol=1e-5)


def test_spatial_attention_is_one_softmax_over_context_and_pixels():
    module = layers.SpatialAttention(head_dim=4, groups=2)
    x, context = normal((2, 2, 3, 3, 8), 1), normal((2, 5, 6), 2)
    mask = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], bool)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, context, mask)["params"]
    params = noise.params(shapes)
    found = module.apply({"params": params}, x, context, mask)
    for i, j in np.ndindex(2, 2):
        frame = slow.group_norm(x[i, j], 2, **params["norm"]).reshape(9, 8)
        q, k, v = (slow.dense(frame, params[name]) for name in "qkv")
        k = np.concatenate([slow.dense(context[i], params["context_k"]), k])
        v = np.concatenate([slow.dense(context[i], params["context_v"]), v])
        seen = np.tile(np.concatenate([mask[i], np.ones(9, bool)]), (9, 1))
        y = slow.dense(slow.attention(q, k, v, 4, seen), params["out"])
        np.testing.assert_allclose(found[i, j], x[i, j] + y.reshape(3, 3, 8), atol=1e-5)


def test_temporal_attention_looks_at_one_pixel_in_all_frames():
    module = layers.TemporalAttention(head_dim=4)
    x = normal((2, 3, 2, 2, 8))
    params = noise.params(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
    found = module.apply({"params": params}, x)
    places = slow.dense(np.asarray(layers.sinusoids(np.arange(3), 8)), params["position"])
    for i, row, column in np.ndindex(2, 2, 2):
        pixel = x[i, :, row, column].astype(np.float64)
        y = slow.layer_norm(pixel, **params["norm"], epsilon=1e-6) + places
        q, k, v = (slow.dense(y, params[name]) for name in "qkv")
        y = slow.dense(slow.attention(q, k, v, 4, np.ones((3, 3), bool)), params["out"])
        np.testing.assert_allclose(found[i, :, row, column], pixel + y, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_convolution_learns_where_numbers_are_double_by_default(dtype):
    x = normal((2, 4, 6, 5, 8))
    convolution = layers.Pseudo3DConv(8, temporal=True)
    loss = lambda params, x: (convolution.apply(params, x) ** 2).sum()
    # Only inside of jit are the forms of all platforms traced.
    gradients = jax.jit(jax.grad(loss, (0, 1)))
    params = convolution.init(jax.random.key(0), x)
    wanted = gradients(params, x)
    with jax.enable_x64(True):
        found = gradients(params, x.astype(dtype))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    jax.tree.map(close, found, wanted)


def test_patches_become_channels_and_back():
    x = normal((1, 2, 4, 6, 3))
    y = layers.space_to_depth(x, 2)
    assert y.shape == (1, 2, 2, 3, 12)
    np.testing.assert_array_equal(y[0, 1, 1, 2].reshape(2, 2, 3), x[0, 1, 2:4, 4:6])
    np.testing.assert_array_equal(layers.depth_to_space(y, 2), x)
