import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mav
import noise
import tiny
from mav import cascade as cascade_lib
from mav import media, program
from mav import params as params_lib

PROMPT = "a red ball over a green meadow"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cascade")
    tiny.write(path)
    return path


@pytest.fixture(scope="module")
def cascade(folder):
    return cascade_lib.load(folder)


@pytest.fixture(scope="module")
def video(cascade):
    return cascade.text_to_video(PROMPT, seed=1, progress=cascade_lib.silent)


def test_a_video_has_the_frames_and_size_of_all_stages(video):
    assert video.shape == (76, 32, 32, 3)
    assert video.dtype == np.uint8


def test_the_same_seed_gives_the_same_pixels_and_another_seed_does_not(cascade, video):
    sample = lambda seed: cascade.text_to_video(PROMPT, seed=seed, progress=cascade_lib.silent)
    np.testing.assert_array_equal(sample(1), video)
    assert (sample(2) != video).any()


def test_parameters_stay_on_the_device_if_half_of_it_holds_them(cascade, folder, monkeypatch):
    leaves = jax.tree.leaves(cascade.params)
    assert len(leaves) > 100
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    monkeypatch.setattr(program, "free_memory", lambda: 2 * sum(x.nbytes for x in leaves) - 1)
    leaves = jax.tree.leaves(cascade_lib.load(folder).params)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)


def test_the_prompt_changes_the_video(cascade, video):
    other = cascade.text_to_video("snowy hills", seed=1, progress=cascade_lib.silent)
    assert (other != video).any()


def test_python_warns_of_words_that_the_cascade_never_saw(cascade):
    with pytest.warns(UserWarning, match="has never seen zebra"):
        cascade.text_to_image("a red zebra", progress=cascade_lib.silent, size=8)


def test_streamed_chunks_of_any_length_are_the_same_video(cascade, video):
    chunks = list(cascade.stream(PROMPT, 1, cascade_lib.silent, chunk=19))
    assert [len(chunk) for chunk in chunks] == [19] * 4
    together = np.concatenate(chunks).astype(int)
    # Convolutions over other batch sizes round differently.
    assert np.abs(together - video).max() <= 1


def test_every_frame_of_sr_768_starts_from_and_adds_the_same_noise(cascade):
    still = jnp.broadcast_to(noise.normal((1, 1, 16, 16, 3)), (1, 7, 16, 16, 3))
    chunks = list(cascade.upscale_768([still], 7, jax.random.key(3), cascade.settings))
    frames = np.concatenate(chunks, axis=1)[0]
    assert len(frames) == 7
    assert len(chunks) > 1
    for frame in frames[1:]:  # a CPU may round those at the edges of a batch otherwise
        np.testing.assert_allclose(frame, frames[0], rtol=0, atol=1e-5)


def test_of_several_videos_the_one_nearest_to_what_was_told_is_kept(cascade):
    videos = jnp.tanh(3 * noise.normal((5, 4, 8, 8, 3), seed=4))
    text = np.asarray(cascade.embed_text(PROMPT, 1)[0]["text_embedding"])[0]
    told = np.asarray(noise.normal((1, 8), seed=4) + 0.1 * noise.normal((5, 8), seed=23))
    cosines = np.empty((2, 5, 4))
    for i, j in np.ndindex(5, 4):
        image = np.asarray(cascade.embed_first_frame(videos[i : i + 1, j : j + 1]))[0]
        for k, wanted in enumerate((told[i], text)):
            cosines[k, i, j] = image @ wanted / np.linalg.norm(image) / np.linalg.norm(wanted)
    alone, together = cosines[0].mean(1).argmax(), cosines.sum(0).mean(1).argmax()
    assert len({0, alone, together, cosines[1].mean(1).argmax()}) == 4
    assert cascade.nearest(videos, told) == alone
    assert cascade.nearest(videos, told, PROMPT) == together


def test_the_nearest_of_the_priors_samples_go_on_one_to_each_candidate(cascade):
    key = jax.random.key(3)
    settings = cascade.settings.updated(dict(candidates=dict(prior=5, decoder=3)))
    found = np.asarray(cascade.embed_prompt(PROMPT, key, settings))
    every = dataclasses.replace(settings, candidates=dict(prior=5, decoder=5))
    everyone = np.asarray(cascade.embed_prompt(PROMPT, key, every))
    text = np.asarray(cascade.embed_text(PROMPT, 1)[0]["text_embedding"])[0]
    assert (np.diff(everyone @ text) < 0).all()
    np.testing.assert_array_equal(found, everyone[:3])
    told = cascade.ask_decoder(jnp.asarray(found[:2]), settings)[1]["image_embedding"]
    np.testing.assert_array_equal(told, found[[0, 1, 0]])


def test_candidates_of_a_mixture_are_compared_by_what_they_were_told(cascade, monkeypatch):
    seen = []
    nearest = lambda self, videos, image_embedding, prompt: seen.append(prompt) or 0
    monkeypatch.setattr(cascade_lib.Cascade, "nearest", nearest)
    image = functools.partial(
        cascade.text_to_image, PROMPT, progress=cascade_lib.silent, size=8, candidates=2
    )
    image(), image(mix=[("snowy hills", 0.5)])
    assert seen == [PROMPT, ""]


def test_of_the_decoders_candidates_the_chosen_one_is_finished(cascade, monkeypatch):
    seen = []
    image = functools.partial(
        cascade.text_to_image, PROMPT, progress=cascade_lib.silent, size=8, steps=4, candidates=3
    )
    pick = lambda i: lambda self, videos, *_: seen.append(videos) or i
    found = []
    for i in range(3):
        monkeypatch.setattr(cascade_lib.Cascade, "nearest", pick(i))
        found.append(image())
    assert [len(videos) for videos in seen] == [3, 3, 3]
    for i in range(3):  # what is finished is what was seen
        early = media.to_uint8(np.asarray(seen[i][:, 0])).astype(int)
        assert np.abs(early - found[i][None]).mean((1, 2, 3)).argmin() == i
    cascade.text_to_image(PROMPT, progress=cascade_lib.silent, size=8)
    assert len(seen) == 3


def test_a_long_video_begins_as_the_short_one_and_goes_on(cascade, video):
    frames = 61 + 5 * 12 + 20  # two windows more, and a part of the third
    long = cascade.text_to_video(PROMPT, seed=1, progress=cascade_lib.silent, frames=frames)
    assert long.shape == (frames, 32, 32, 3)
    same = 76 - cascade_lib.FADE
    assert np.abs(long[:same].astype(int) - video[:same]).max() <= 1  # other chunks of sr_768
    assert (long[76:136] != long[: 136 - 76]).any()


def test_what_follows_a_clip_is_told_what_its_candidate_was_told(cascade, monkeypatch):
    changes = dict(candidates=dict(prior=5, decoder=3), frames=100, size=8)
    settings, keys, _ = cascade.begin(1, cascade_lib.silent, changes)
    embed = lambda text: np.asarray(cascade.embed_prompt(text, keys["prior"], settings))
    first, second = embed(PROMPT), embed("snowy hills")
    seen = []

    def follows(self, clip, frames, image_embeddings, *_):
        seen.extend(np.asarray(one) for one in image_embeddings)
        yield jnp.concatenate([clip] * (frames // clip.shape[1] + 1), axis=1)

    monkeypatch.setattr(cascade_lib.Cascade, "nearest", lambda self, *_: 2)
    monkeypatch.setattr(cascade_lib.Cascade, "extrapolate", follows)
    cascade.text_to_video([PROMPT, "snowy hills"], 1, cascade_lib.silent, **changes)
    np.testing.assert_array_equal(seen[0], first[2:3])
    np.testing.assert_array_equal(seen[1], second[:1])


def test_a_long_video_comes_before_its_end_is_begun(cascade):
    calls = {}
    progress = lambda stage, done, total: calls.update({stage: (done, total)})
    pieces = cascade.stream(PROMPT, 1, progress, frames=500)
    assert len(next(pieces)) == cascade.settings.chunk
    assert "extrapolation" not in calls
    assert sum(map(len, pieces)) == 495
    assert calls["extrapolation"] == (2 * 8, 2 * 8)  # 16 of 101 decoder frames, then 12 a window
    assert all(done == total for done, total in calls.values())


def test_prompts_take_turns_in_a_long_video(cascade, monkeypatch):
    told = []
    monkeypatch.setattr(
        cascade_lib.Cascade,
        "fill",
        lambda self, video, known, embedding, *rest: told.append(embedding) or video,
    )
    prompts = ["a red ball", "a blue bird", "snowy hills"]
    frames = 76 + 5 * 60  # five windows more
    cascade.text_to_video(prompts, seed=1, progress=cascade_lib.silent, frames=frames, size=8)
    told = [np.asarray(embedding)[0] for embedding in told]
    keys = cascade.begin(1, None, {})[1]
    wanted = [
        np.asarray(cascade.embed_prompt(text, keys["prior"], cascade.settings))[0]
        for text in prompts
    ]
    continued = [e for e in told if any((e == w).all() for w in wanted)]
    assert len(continued) == 5  # the others interpolate
    for embedding, i in zip(continued, [0, 1, 1, 2, 2], strict=True):
        np.testing.assert_array_equal(embedding, wanted[i])
    with pytest.raises(ValueError, match="3 prompts need a video of more than 76 frames"):
        cascade.stream(prompts)


def test_what_is_mixed_in_takes_its_share(cascade, monkeypatch):
    told = []
    decode = cascade_lib.Cascade.decode
    monkeypatch.setattr(
        cascade_lib.Cascade,
        "decode",
        lambda self, embedding, *rest: (
            told.append(np.asarray(embedding)) or decode(self, embedding, *rest)
        ),
    )
    image = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    sample = lambda mix: (
        cascade.text_to_image(PROMPT, 1, cascade_lib.silent, mix=mix, size=8) is not None
        and told.pop()
    )
    plain, other = sample([]), sample([("snowy hills", 1.0)])
    np.testing.assert_allclose(sample([("snowy hills", 0.0)]), plain, rtol=1e-5)
    keys = cascade.begin(1, None, {})[1]
    wanted = cascade.embed_prompt("snowy hills", keys["prior"], cascade.settings)
    np.testing.assert_allclose(other, wanted, rtol=1e-5)
    np.testing.assert_allclose(sample([(image, 1.0)]), cascade.embed_image(image), rtol=1e-5)
    angle = lambda a, b: np.arccos(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))
    third = sample([("snowy hills", 1 / 3)])
    np.testing.assert_allclose(3 * angle(plain, third), angle(plain, other), rtol=1e-3)
    with pytest.raises(ValueError, match="mix takes a share of"):
        cascade.stream(PROMPT, mix=[(image, 1.5)])


def test_guidance_leads_away_from_a_negative_prompt(cascade):
    keys = cascade.begin(1, None, {})[1]
    settings = cascade.settings.updated(dict(guidance_scale={"prior": 3.0}))
    embed = lambda *negative: np.asarray(
        cascade.embed_prompt(PROMPT, keys["prior"], settings, cascade_lib.silent, *negative)
    )
    assert (embed("snowy hills") != embed()).any()
    np.testing.assert_array_equal(embed(""), embed())
    # Where both say the same, guidance has nowhere to go.
    plain = cascade.settings.updated(dict(guidance_scale={"prior": 1.0}))
    np.testing.assert_allclose(
        embed(PROMPT), cascade.embed_prompt(PROMPT, keys["prior"], plain), atol=1e-4
    )


def test_a_continued_clip_begins_with_its_last_frames(cascade, monkeypatch):
    given = []
    fill = cascade_lib.Cascade.fill
    monkeypatch.setattr(
        cascade_lib.Cascade,
        "fill",
        lambda self, video, known, *rest: (
            given.append((video, known)) or fill(self, video, known, *rest)
        ),
    )
    clip = jnp.tanh(noise.normal((1, 16, 8, 8, 3)))
    settings = cascade.settings.updated(dict(overlap=6))
    embedding = cascade.embed_first_frame(clip)
    pieces = list(cascade.extrapolate(clip, 30, [embedding], jax.random.key(0), settings))
    assert [piece.shape[1] for piece in pieces] == [16, 10, 10]
    for (video, known), last in zip(given, pieces, strict=False):
        np.testing.assert_array_equal(known[0], [1.0] * 6 + [0.0] * 10)
        np.testing.assert_array_equal(video[:, :6], last[:, -6:])


def interpolate(cascade, video, settings):
    pieces = cascade.interpolate([video], video.shape[1], jax.random.key(0), settings)
    return np.concatenate(list(pieces), axis=1)


def test_interpolation_returns_the_given_frames_bit_for_bit(cascade):
    given = jnp.tanh(noise.normal((1, 16, 8, 8, 3)))
    filled = interpolate(cascade, given, cascade.settings)
    assert filled.shape == (1, 76, 8, 8, 3)
    np.testing.assert_array_equal(filled[:, ::5], given)
    assert not np.array_equal(filled[:, 1::5], given[:, :-1])


@pytest.mark.parametrize(("own", "wanted"), [(dict(extrapolation=3), 3), ({}, 2)])
def test_extrapolation_has_steps_of_its_own_or_those_of_interpolation(cascade, own, wanted):
    calls = {}
    progress = lambda stage, done, total: calls.update({stage: (done, total)})
    photo = np.zeros((8, 8, 3), np.uint8)
    cascade.animate(photo, progress=progress, size=8, steps=dict(interpolation=2, **own))
    assert calls == dict(extrapolation=(wanted, wanted), interpolation=(10, 10))  # 5 windows


def test_extrapolation_with_a_sampler_that_is_unknown_is_refused_at_once(cascade):
    with pytest.raises(ValueError, match="extrapolation: sampler='some' is unknown"):
        cascade.stream(PROMPT, sampler=dict(extrapolation="some"))


def test_a_frame_skip_of_three_gives_46_frames(cascade):
    given = jnp.tanh(noise.normal((1, 16, 8, 8, 3)))
    settings = cascade.settings.updated(dict(frame_skip=3))
    filled = interpolate(cascade, given, settings)
    np.testing.assert_array_equal(filled[:, ::3], given)
    assert filled.shape[1] == 46


def test_guidance_is_that_of_the_settings(cascade, monkeypatch):
    seen, advance = [], cascade_lib.advance

    def record(stage, scale, rescale, keeps, state, row, *rest):
        threshold = stage.process.dynamic_threshold
        seen.append((stage.name, int(row["t"][0]), scale, rescale, threshold))
        return advance(stage, scale, rescale, keeps, state, row, *rest)

    record.trace = advance.trace
    monkeypatch.setattr(cascade_lib, "advance", record)
    cascade.text_to_image(
        PROMPT,
        progress=cascade_lib.silent,
        size=8,
        steps=4,
        guidance_scale=3.0,
        guidance_interval=(0.6, 0.9),
        guidance_rescale=0.7,
        dynamic_threshold={"prior": 0.9},
    )
    assert seen[-4:] == [
        ("decoder", 999, 1.0, 0.7, None),
        ("decoder", 749, 3.0, 0.7, None),
        ("decoder", 499, 1.0, 0.7, None),
        ("decoder", 249, 1.0, 0.7, None),
    ]
    assert {call[0::2] for call in seen[:-4]} == {("prior", 1.0, 0.9)}


def test_guidance_leads_away_from_what_stands_still(cascade):
    """Where the decoder knows of an fps at which nothing moves; else all are told the same."""
    features = dict(cascade.stages["decoder"].inputs)["embedding_features"]
    ask = lambda **kw: cascade.ask_decoder(np.zeros((1, features)), cascade.settings.updated(kw))
    (b, *_), cond, null = ask(fps=2.0, still_fps=120.0)
    np.testing.assert_array_equal(cond["fps"], np.full(b, 2.0))
    np.testing.assert_array_equal(null["fps"], np.full(b, 120.0))
    assert "fps" not in ask(fps=2.0)[2]


def test_the_cascade_stops_where_it_is_told(cascade):
    sample = lambda **kw: cascade.text_to_video(PROMPT, progress=cascade_lib.silent, **kw)
    assert sample(size=8, frames=16).shape == (16, 8, 8, 3)
    assert sample(size=16, frames=16).shape == (16, 16, 16, 3)
    assert cascade.text_to_image(PROMPT, progress=cascade_lib.silent, size=16).shape == (16, 16, 3)


def test_progress_is_reported_for_every_stage_to_its_end(cascade):
    calls = []
    cascade.text_to_video(PROMPT, progress=lambda *call: calls.append(call))
    last = {name: (done, total) for name, done, total in calls}
    assert last == dict(
        prior=(3, 3), decoder=(3, 3), interpolation=(10, 10), sr_256=(2, 2), sr_768=(32, 32)
    )


def test_each_stage_compiles_its_network_once(cascade):
    cascade_lib.advance.clear_cache()
    for seed in range(2):
        cascade.text_to_video(PROMPT, seed=seed, progress=cascade_lib.silent)
    assert cascade_lib.advance._cache_size() == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(size=65), "size=65 is impossible; choose 8, 16, 32"),
        (dict(frames=15), "frames=15 is impossible; choose 1, 16 or more"),
        (dict(overlap=16), "overlap=16 is impossible; choose 1 to 15 frames"),
        (dict(frame_skip=4), "frame_skip=4 is impossible; choose 1, 3, 5, 15"),
        (dict(fps=0), "fps=0 is impossible; choose 1 to 30"),
        (dict(fps=3.0, still_fps=3.0), "still_fps=3.0 must be more than fps=3.0"),
        (dict(steps={"decoder": 0}), "decoder: steps=0 must lie between 1 and 1000"),
        (dict(steps={"decodr": 5}), "steps names the stage 'decodr'; choose among prior"),
        (dict(sampler={"decoder": "euler"}), "decoder: sampler='euler' is unknown"),
        (dict(candidates={"sr_256": 2}), "candidates of sr_256=2 are impossible"),
        (dict(candidates=0), "candidates of decoder=0 are impossible"),
        (dict(guidance_interval={"prior": (0.9, 0.2)}), "guidance_interval of prior=0.9,0.2"),
        (dict(guidance_rescale=1.5), "guidance_rescale of decoder=1.5 is outside 0 to 1"),
        (dict(dynamic_threshold=99.5), "dynamic_threshold of decoder=99.5 must lie between"),
        (dict(colour="red"), "setting 'colour' is unknown"),
    ],
)
def test_impossible_settings_are_refused_with_what_is_allowed(cascade, changes, message):
    with pytest.raises(ValueError, match=message):
        cascade.stream(PROMPT, **changes)


@pytest.mark.parametrize("name", ["decoder", "sr_256", "sr_768"])
def test_the_memory_that_a_stage_needs_is_about_what_xla_takes(monkeypatch, name):
    shipped, programs = mav.load("cutout"), []
    count = program.count_bytes
    monkeypatch.setattr(
        program, "count_bytes", lambda jaxpr: programs.append(jaxpr) or count(jaxpr)
    )
    needed = shipped.needs(name, shipped.settings)
    arguments = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in programs[0].jaxpr.invars]
    run = jax.jit(jax.extend.core.jaxpr_as_fun(programs[0]))
    memory = run.lower(*arguments).compile().memory_analysis()
    params = sum(leaf.nbytes for leaf in jax.tree.leaves(shipped.params[name]))
    taken = memory.argument_size_in_bytes + memory.temp_size_in_bytes - params
    assert 0.7 * taken < needed < 1.5 * taken


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(guidance_scale=1), "sr_256 needs .* GiB are free; choose size=8, or fewer frames"),
        (dict(candidates=500), "decoder needs .*; lower candidates of decoder=500"),
        (dict(guidance_scale=1, size=16, frames=16), None),
        (dict(frames=16, chunk=4, guidance_scale=1), None),
        (dict(frames=16, chunk=16, guidance_scale=1), "sr_768 needs .*; lower chunk=16"),
        (dict(frames=16), "decoder needs .*; divide it over devices by a mesh such as context=8"),
    ],
)
def test_what_does_not_fit_into_memory_is_refused_before_it_starts(
    cascade, monkeypatch, changes, message
):
    half = cascade.needs("sr_256", cascade.settings) // 2
    monkeypatch.setattr(program, "free_memory", lambda: int(1.2 * half))
    if message is None:
        cascade.stream(PROMPT, **changes)
    else:
        with pytest.raises(ValueError, match=message):
            cascade.stream(PROMPT, **changes)


def test_stages_run_inside_of_jit_and_vmap(cascade):
    settings = cascade.settings.updated(dict(candidates=3))
    embedding = noise.normal((1, 8))
    keys = jax.random.split(jax.random.key(0), 2)

    def made(params, key):
        here = dataclasses.replace(cascade, params=params)
        video, _ = here.decode(embedding, key, settings, prompt=PROMPT)
        return video, here.fill(video, jnp.zeros((1, 16)).at[:, 0].set(1), embedding, key, settings)

    plain = [made(cascade.params, key) for key in keys]
    together = jax.jit(jax.vmap(made, in_axes=(None, 0)))(cascade.params, keys)
    for i, expected in enumerate(plain):
        found = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)
        np.testing.assert_array_equal(found[1][:, 0], found[0][:, 0])


def test_an_empty_prompt_is_refused(cascade):
    with pytest.raises(ValueError, match="the prompt is empty"):
        cascade.stream("  ")


def test_an_unknown_cascade_is_refused_with_the_shipped_names():
    with pytest.raises(ValueError, match="neither shipped"):
        cascade_lib.load("no-such-cascade")


def test_a_damaged_weights_file_is_named(folder, tmp_path):
    tiny.write(tmp_path)
    weights = tmp_path / "sr_256" / "params.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"sr_256/params.safetensors is damaged"):
        cascade_lib.load(tmp_path)


def test_a_folder_written_and_read_has_the_same_parameters(folder, cascade):
    for name in tiny.CONFIGS:
        expected = params_lib.flatten(tiny.params(name))
        found = params_lib.flatten(cascade.params[name])
        assert set(found) == set(expected)
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key])
