"""Makes the references beside it: small random networks of diffusers and transformers, as folders
that those libraries save, with inputs and their outputs.

    python tests/reference/make.py FOLDER [KIND ...]

needs requirements/parity.txt. The tests convert the folders and compare; with
`launch/test.sh --parity` they are made anew and compared too.
"""

import functools
import json
import pathlib
import shutil
import sys
from collections.abc import Sequence
from unittest import mock

import jax
import numpy as np
import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip import pipeline_unclip
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.schedulers import (
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    UnCLIPScheduler,
    UniPCMultistepScheduler,
    scheduling_unclip,
)
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import chance
import judges

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = ["l o", "lo w</w>", "e r</w>", "r e", "re d</w>", "b a", "l l</w>", "ba ll</w>"]
TEXTS = [
    "a red ball",
    "",
    "  LOWER\tlow\n\nlow!! ",
    "it's John's, they'd, we'll, I'm, you've, they're, don't",
    "caf\u00e9 CAF\u00c9 cafe\u0301 na\u00efve \u0130stanbul stra\u00dfe",
    "\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \u0440\u0443\u0441\u0441\u043a\u0438\u0439",
    "\U0001f600 \U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea !?\u2026\u2014",
    "a1b22 3.14 1,000 50%",
    "<|endoftext|> inside <|startoftext|> red <|ENDOFTEXT|>",
    "\u00a0tabs\u2003and\u200bspaces\u3000",
    "low " * 90,
]


def lively(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random parameters under which every part of the network matters."""
    rng = np.random.default_rng(seed)
    for name, parameter in sorted(module.named_parameters()):
        values = np.asarray(rng.standard_normal(parameter.shape))
        if name == "clip_std":
            values = 1 + 0.2 * np.abs(values)
        elif name == "logit_scale":
            values = 2 + 0 * values
        elif parameter.ndim > 1:
            values = values / np.sqrt(max(np.prod(parameter.shape[1:]), 4))
        elif name.endswith("weight"):
            values = 1 + 0.2 * values
        else:
            values *= 0.2
        # Exact in half precision, so that the files can be small.
        parameter.data = torch.tensor(np.array(values, np.float16), dtype=torch.float32)
    return module.eval()


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(x: np.ndarray) -> torch.Tensor:
    """Channels last -> channels first, where it has pixels."""
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy() if x.ndim == 4 else x)


def array(x: torch.Tensor) -> np.ndarray:
    x = x.detach().numpy()
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def save(folder: pathlib.Path, arrays: dict[str, np.ndarray], **modules: torch.nn.Module) -> None:
    """Each module in half precision in its own folder, and the arrays beside them."""
    for name, module in modules.items():
        module.half().save_pretrained(folder / name)
        module.float()
    np.savez_compressed(folder / "reference.npz", **arrays)


# Cases by component


PRIORS = dict(
    two_layers=dict(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=6,
        num_embeddings=5,
    ),
    many_heads=dict(
        num_attention_heads=4,
        attention_head_dim=4,
        num_layers=3,
        embedding_dim=12,
        num_embeddings=9,
    ),
    one_layer_one_head=dict(
        num_attention_heads=1,
        attention_head_dim=16,
        num_layers=1,
        embedding_dim=10,
        num_embeddings=3,
    ),
)


def make_prior(folder: pathlib.Path, config: dict) -> None:
    model = lively(PriorTransformer(**config), 1)
    d, n = config["embedding_dim"], config["num_embeddings"]
    x, embedding, states = normal(3, d, seed=2), normal(3, d, seed=3), normal(3, n, d, seed=4)
    t = np.array([0, 371, 999])
    mask = np.arange(n)[None] < np.array([[1], [2], [n]])
    output = model(*map(tensor, (x, t, embedding, states, mask))).predicted_image_embedding
    save(
        folder,
        dict(
            x=x,
            t=t,
            text_embedding=embedding,
            text_states=states,
            text_mask=mask,
            output=array(output),
            unwhitened=array(model.post_process_latents(torch.from_numpy(x))),
        ),
        prior=model,
    )


def blocks(kind: str, attending: tuple[bool, ...]) -> list[str]:
    return [
        f"SimpleCrossAttn{kind}Block2D" if a else f"Resnet{kind}sampleBlock2D" for a in attending
    ]


def decoder(channels, attending, **config) -> UNet2DConditionModel:
    values = dict(
        sample_size=8,
        in_channels=3,
        out_channels=6,
        block_out_channels=channels,
        down_block_types=blocks("Down", attending),
        up_block_types=blocks("Up", attending[::-1]),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=10,
        norm_num_groups=4,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
    )
    return UNet2DConditionModel(**{**values, **config})


DECODERS = dict(
    two_levels=dict(channels=(8, 16), attending=(False, True)),
    three_levels=dict(
        channels=(8, 16, 24),
        attending=(False, True, True),
        layers_per_block=2,
        attention_head_dim=8,
    ),
    attention_everywhere=dict(channels=(12, 12), attending=(True, True), cross_attention_dim=7),
    one_level=dict(channels=(8,), attending=(True,), layers_per_block=2),
    fixed_variance_and_shift=dict(
        channels=(8, 16), attending=(False, True), out_channels=3, resnet_time_scale_shift="default"
    ),
)


def make_decoder(folder: pathlib.Path, config: dict) -> None:
    unet = lively(decoder(**config), 1)
    context, d, n, tokens = unet.config.cross_attention_dim, 6, 5, 3
    projection = lively(
        UnCLIPTextProjModel(
            clip_extra_context_tokens=tokens,
            clip_embeddings_dim=d,
            time_embed_dim=4 * unet.config.block_out_channels[0],
            cross_attention_dim=context,
        ),
        2,
    )
    x, t = normal(2, 16, 16, 3, seed=3), np.array([3, 700])
    image, text, states = normal(2, d, seed=4), normal(2, d, seed=5), normal(2, n, d, seed=6)
    mask = np.arange(n)[None] < np.array([[2], [n]])

    def run(hidden, vector, seen):
        return array(unet(tensor(x), tensor(t), hidden, vector, attention_mask=seen).sample)

    twice = lambda a: torch.cat([torch.from_numpy(a)] * 2)
    hidden, vector = projection(
        image_embeddings=torch.from_numpy(image),
        prompt_embeds=twice(text),
        text_encoder_hidden_states=twice(states),
        do_classifier_free_guidance=True,  # puts the learned null embedding before the image's
    )
    seen = torch.nn.functional.pad(torch.from_numpy(mask), (tokens, 0), value=True)
    image_only = projection.clip_extra_context_tokens_proj(torch.from_numpy(image))
    image_only = image_only.reshape(2, context, tokens).permute(0, 2, 1)
    vector_only = projection.clip_image_embeddings_project_to_time_embeddings(tensor(image))
    save(
        folder,
        dict(
            x=x,
            t=t,
            image_embedding=image,
            text_embedding=text,
            text_states=states,
            text_mask=mask,
            output=run(hidden[2:], vector[2:], seen),
            output_without_image=run(hidden[:2], vector[:2], seen),
            output_without_text=run(image_only, vector_only, None),
        ),
        decoder=unet,
        text_proj=projection,
    )


SUPER_RESOLUTIONS = dict(
    two_levels=dict(block_out_channels=(8, 16)),
    three_levels=dict(block_out_channels=(8, 16, 16), layers_per_block=2),
    scale_shift=dict(block_out_channels=(8, 8), resnet_time_scale_shift="scale_shift"),
    one_level=dict(block_out_channels=(12,), layers_per_block=3),
)


def super_resolution(block_out_channels, **config) -> UNet2DModel:
    values = dict(
        sample_size=16,
        in_channels=6,
        out_channels=3,
        down_block_types=["ResnetDownsampleBlock2D"] * len(block_out_channels),
        up_block_types=["ResnetUpsampleBlock2D"] * len(block_out_channels),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    )
    return UNet2DModel(block_out_channels=block_out_channels, **{**values, **config})


def make_super_resolution(folder: pathlib.Path, config: dict) -> None:
    unet = lively(super_resolution(**config), 1)
    x, low_res, t = normal(2, 16, 16, 3, seed=2), normal(2, 16, 16, 3, seed=3), np.array([0, 850])
    output = unet(tensor(np.concatenate([x, low_res], axis=-1)), tensor(t)).sample
    arrays = dict(x=x, low_res=low_res, t=t, output=array(output))
    save(folder, arrays, super_res_first=unet)


def clip(text: dict, image: dict, projection_dim: int) -> CLIPModel:
    texts = CLIPTextConfig(
        vocab_size=30, max_position_embeddings=9, bos_token_id=28, eos_token_id=29, pad_token_id=0,
        projection_dim=projection_dim, **text,
    )  # fmt: skip
    images = CLIPVisionConfig(projection_dim=projection_dim, **image)
    config = CLIPConfig(
        text_config=texts.to_dict(), vision_config=images.to_dict(), projection_dim=projection_dim
    )
    return CLIPModel(config)


def tower(width: int, depth: int, heads: int, **more) -> dict:
    return dict(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        **more,
    )


CLIPS = dict(
    quick=dict(
        text=tower(16, 2, 2),
        image=tower(24, 2, 2, image_size=16, patch_size=4),
        projection_dim=12,
    ),
    gelu=dict(  # as H/14: other heads in the image tower
        text=tower(16, 3, 2, hidden_act="gelu"),
        image=tower(20, 2, 2, image_size=28, patch_size=14, hidden_act="gelu"),
        projection_dim=16,
    ),
    one_patch=dict(
        text=tower(8, 1, 1), image=tower(8, 1, 1, image_size=8, patch_size=8), projection_dim=4
    ),
)


def make_clip(folder: pathlib.Path, config: dict) -> None:
    model = lively(clip(**config), 1)
    tokens = np.array([[28, 1, 2, 3, 29, 0, 0, 0, 0], [28, *range(7), 29]])
    size = config["image"]["image_size"]
    pixels = normal(3, size, size, 3, seed=2)
    texts = model.text_model(torch.from_numpy(tokens))
    output = model(torch.from_numpy(tokens), tensor(pixels))
    save(
        folder,
        dict(
            tokens=tokens,
            pixels=pixels,  # in CLIP's normalised colours
            text_states=array(texts.last_hidden_state),
            text_embedding=array(model.text_projection(texts.pooler_output)),
            image_embedding=array(
                model.visual_projection(model.vision_model(tensor(pixels)).pooler_output)
            ),
            logits=array(output.logits_per_text),
        ),
        clip=model,
    )


SCHEDULERS = dict(
    prior=dict(prediction_type="sample", clip_sample_range=5.0),
    decoder=dict(variance_type="learned_range"),
    super_res=dict(),
)


def exact_scheduler(config: dict) -> UnCLIPScheduler:
    """With its tables in float64: 1 - alpha_bar ends at 4e-5, which float32 has to three digits."""
    with mock.patch.object(torch, "float32", torch.float64):
        return UnCLIPScheduler(**config)


def make_scheduler(folder: pathlib.Path, config: dict) -> None:
    """One step from each timestep of three schedules, and the timesteps of many."""
    scheduler = exact_scheduler(config)
    scheduler.save_pretrained(folder / "scheduler")
    learned = config.get("variance_type") == "learned_range"
    arrays = {}
    for n in (2, 7, 25):
        scheduler.set_timesteps(n)
        x, noise = normal(n, 4, 4, 3, seed=n), normal(n, 4, 4, 3, seed=n + 1)
        outputs = normal(n, 4, 4, 6 if learned else 3, seed=n + 2)
        stepped = []
        for i, t in enumerate(scheduler.timesteps):
            before = scheduler.timesteps[i + 1] if i + 1 < n else None
            with drawn([noise[i : i + 1]]):
                step = scheduler.step(
                    tensor(outputs[i : i + 1]), t, tensor(x[i : i + 1]), prev_timestep=before
                )
            stepped.append(array(step.prev_sample))
        arrays |= {f"{n}_x": x, f"{n}_noise": noise, f"{n}_outputs": outputs}
        arrays[f"{n}_stepped"] = np.concatenate(stepped)
    for n in range(2, 130):
        scheduler.set_timesteps(n)
        arrays[f"timesteps_{n}"] = scheduler.timesteps.numpy().astype(np.int16)
    np.savez_compressed(folder / "reference.npz", **arrays)


def drawn(noises: list[np.ndarray]):
    """Lets the scheduler draw these instead of its own noise, in turn."""
    left = iter(noises)
    draw = lambda shape, **_: tensor(next(left)).reshape(shape)
    return mock.patch.object(scheduling_unclip, "randn_tensor", draw)


SOLVERS = {
    "dpm++": (
        DPMSolverMultistepScheduler,
        dict(algorithm_type="dpmsolver++", timestep_spacing="trailing"),
    ),
    "dpm++sde": (
        DPMSolverMultistepScheduler,
        dict(algorithm_type="sde-dpmsolver++", timestep_spacing="trailing"),
    ),
    "dpm++2s": (DPMSolverSinglestepScheduler, dict(lower_order_final=True)),
    "unipc": (UniPCMultistepScheduler, dict(solver_type="bh2", timestep_spacing="trailing")),
}


def make_solver(folder: pathlib.Path, config: tuple) -> None:
    """The way that a sample takes through predictions that are given."""
    make, options = config
    same = dict(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", solver_order=2,
        final_sigmas_type="zero",
    )  # fmt: skip
    arrays = {}
    for n in (1, 2, 5, 10):
        scheduler = make(**same, **options)
        if make is DPMSolverSinglestepScheduler:  # it has no "trailing" of its own
            scheduler.set_timesteps(timesteps=np.arange(n, 0, -1) * 1000 // n - 1)
        else:
            scheduler.set_timesteps(n)
        start, noise = normal(4, 4, 3, seed=n), normal(n, 4, 4, 3, seed=n + 1)
        outputs = normal(n, 4, 4, 3, seed=n + 2)
        x, way = tensor(start), []
        for i, t in enumerate(scheduler.timesteps):
            drawn = {}
            if "sde" in options.get("algorithm_type", ""):
                drawn["variance_noise"] = tensor(noise[i])
            x = scheduler.step(tensor(outputs[i]), t, x, **drawn).prev_sample
            way.append(array(x))
        arrays |= {f"{n}_start": start, f"{n}_noise": noise, f"{n}_outputs": outputs}
        arrays |= {f"{n}_way": np.stack(way), f"{n}_timesteps": scheduler.timesteps.numpy()}
    np.savez_compressed(folder / "reference.npz", **arrays)


# The whole pipeline


def make_tokenizer(folder: pathlib.Path, max_tokens: int) -> CLIPTokenizer:
    """OpenAI's layout with few merges: all bytes, all again ending a word, merges, start, end."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in printable]
    symbols += [chr(256 + i) for i in range(256 - len(printable))]
    names = [*symbols, *(s + "</w>" for s in symbols), *(m.replace(" ", "") for m in MERGES)]
    vocabulary = {name: i for i, name in enumerate([*names, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *MERGES]) + "\n"
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    merges = [tuple(m.split()) for m in MERGES]
    tokenizer = CLIPTokenizer(vocabulary, merges, model_max_length=max_tokens, pad_token="!")
    tokenizer.save_pretrained(folder.with_name("tokenizer_in_one_file"))
    return tokenizer


def make_pipeline(folder: pathlib.Path) -> None:
    """A tiny unCLIP and the images that it samples from mav's noise."""
    d, max_tokens, size = 16, 20, (16, 32)
    tokenizer = make_tokenizer(folder / "tokenizer", max_tokens)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=max_tokens, projection_dim=d,
        eos_token_id=2, bos_token_id=0, pad_token_id=1, **tower(d, 2, 2),
    )  # fmt: skip
    image = CLIPVisionConfig(projection_dim=d, **tower(16, 1, 2, image_size=16, patch_size=8))
    unet = lively(decoder((8, 16), (False, True), sample_size=size[0]), 3)
    parts = dict(
        prior=lively(
            PriorTransformer(
                num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=d,
                num_embeddings=max_tokens,
            ),
            1,
        ),
        decoder=unet,
        text_proj=lively(
            UnCLIPTextProjModel(
                clip_extra_context_tokens=4, clip_embeddings_dim=d, time_embed_dim=32,
                cross_attention_dim=unet.config.cross_attention_dim,
            ),
            4,
        ),
        text_encoder=lively(CLIPTextModelWithProjection(text), 5),
        super_res_first=lively(super_resolution((8, 16), sample_size=size[1]), 6),
        super_res_last=lively(super_resolution((8, 16), sample_size=size[1]), 7),
    )  # fmt: skip
    schedulers = {f"{k}_scheduler": exact_scheduler(config) for k, config in SCHEDULERS.items()}
    pipeline = pipeline_unclip.UnCLIPPipeline(tokenizer=tokenizer, **parts, **schedulers)
    pipeline.set_progress_bar_config(disable=True)

    steps = dict(prior=5, decoder=6, sr_256=4)
    shapes = dict(prior=(1, d), decoder=(1, *[size[0]] * 2, 3), sr_256=(1, *[size[1]] * 2, 3))
    prompts = ["a red ball", "LOWER low ball, it's"]
    images = []
    for seed, prompt in enumerate(prompts):
        first, rest = zip(*(mav_noise(seed, k, shapes[k], steps[k]) for k in steps), strict=True)
        with drawn([noise for noises in rest for noise in noises]):
            images.append(
                pipeline(
                    prompt,
                    prior_num_inference_steps=steps["prior"],
                    decoder_num_inference_steps=steps["decoder"],
                    super_res_num_inference_steps=steps["sr_256"],
                    prior_latents=torch.from_numpy(first[0]),
                    decoder_latents=tensor(first[1]),
                    super_res_latents=tensor(first[2]),
                    prior_guidance_scale=2.0,
                    decoder_guidance_scale=3.0,
                    output_type="np",
                ).images[0]
            )
    ids = tokenizer(TEXTS, padding="max_length", max_length=max_tokens, truncation=True)
    save(
        folder,
        dict(prompts=prompts, images=np.stack(images), texts=TEXTS, ids=ids["input_ids"]),
        **parts,
        image_encoder=lively(CLIPVisionModelWithProjection(image), 8),
    )
    for name, scheduler in schedulers.items():
        scheduler.save_pretrained(folder / name)
    index = {"_class_name": "UnCLIPPipeline"} | {k: [] for k in (*parts, *schedulers, "tokenizer")}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def mav_noise(seed: int, stage: str, shape: tuple[int, ...], num_steps: int):
    """The noise that mav draws: at the start, and for every step but the last."""
    stages = ("clip", "prior", "decoder", "interpolation", "sr_256", "sr_256_last", "sr_768")
    key = jax.random.split(jax.random.key(seed), len(stages))[stages.index(stage)]
    if stage == "sr_256":
        _, key = jax.random.split(key)  # the other is for the noise on its input
    first, key = jax.random.split(key)
    rest = []
    for _ in range(num_steps - 1):
        key, draw = jax.random.split(key)
        rest.append(np.asarray(jax.random.normal(draw, shape)))
    return np.asarray(jax.random.normal(first, shape)), rest


# Networks that judge, at their full size: weights are drawn by tests and here alike, from names and
# shapes that are kept; C3D's linear layers are narrower. Inputs are videos as they lie in files.
JUDGES = dict(
    inception=dict(video=(1, 2, 50, 40)),
    i3d=dict(video=(1, 9, 48, 40)),
    c3d=dict(video=(1, 16, 40, 48)),
    clip=dict(video=(1, 2, 40, 57)),
)


def make_judge(folder: pathlib.Path, config: dict) -> None:
    name, frames = folder.name, chance.video(*config["video"])
    if name == "clip":
        return make_judging_clip(folder, frames)
    if name == "inception":
        look, model = judges.inception, judges.inception_network(folder / "empty.pth")
    elif name == "i3d":
        look, model = judges.i3d, judges.I3D()
    else:
        look, model = functools.partial(judges.c3d, mean=chance.mean()), judges.C3D(hidden=64)
    shapes = {k: v.shape for k, v in model.state_dict().items() if v.is_floating_point()}
    weights = {k: torch.from_numpy(v) for k, v in chance.state_dict(shapes, name).items()}
    model.load_state_dict(weights, strict=False)  # without counters
    output = {k: v.numpy() for k, v in look(model.eval(), frames).items()}
    np.savez_compressed(folder / "reference.npz", shapes=json.dumps(shapes), **output)
    torch.save(model.state_dict(), folder / "weights.pth")
    if name == "i3d":
        example = torch.zeros(1, 3, 9, 224, 224)
        torch.jit.trace(model, example).save(folder / "torchscript.pt")


def make_judging_clip(folder: pathlib.Path, frames: np.ndarray) -> None:
    """A small CLIP on frames that Pillow resizes and cuts as OpenAI's code has it."""
    tokenizer = make_tokenizer(folder / "clip", 20)
    shutil.rmtree(folder / "tokenizer_in_one_file")
    size = 16
    config = CLIPConfig(
        text_config=dict(
            vocab_size=len(tokenizer), max_position_embeddings=20, eos_token_id=2, **tower(16, 2, 2)
        ),
        vision_config=tower(24, 2, 2, image_size=size, patch_size=4),
        projection_dim=12,
    )
    model = lively(CLIPModel(config), 1)
    ids = tokenizer(TEXTS, padding="max_length", max_length=20, truncation=True)["input_ids"]
    read = model.text_model(torch.tensor(ids)).pooler_output
    save(
        folder,
        dict(
            texts=TEXTS,
            embedding=array(judges.clip(model, frames)["embedding"]),
            text=array(model.text_projection(read)),
        ),
        clip=model,
    )


KINDS = dict(
    judge=(make_judge, JUDGES),
    prior=(make_prior, PRIORS),
    decoder=(make_decoder, DECODERS),
    super_resolution=(make_super_resolution, SUPER_RESOLUTIONS),
    clip=(make_clip, CLIPS),
    scheduler=(make_scheduler, SCHEDULERS),
    solver=(make_solver, SOLVERS),
)


def main(root: pathlib.Path, wanted: Sequence[str]) -> None:
    for kind in wanted or KINDS:
        make, cases = KINDS[kind]
        for name, config in cases.items():
            folder = root / kind / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with torch.no_grad():
                make(folder, config)
    if wanted:
        return
    shutil.rmtree(root / "pipeline", ignore_errors=True)
    with torch.no_grad():
        make_pipeline(root / "pipeline")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
