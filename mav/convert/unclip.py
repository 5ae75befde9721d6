"""`mav convert unclip`: a released unCLIP pipeline becomes a cascade folder.

Reads what diffusers' UnCLIPPipeline saves (Karlo: prior, decoder, two super-resolution networks,
CLIP's text tower). mav ships none of those weights; their licence goes with the folder.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import tokenizers
from tqdm.auto import tqdm

from mav import bars, folders, stages, tokenizer
from mav import params as params_lib
from mav.convert import clip, torch_layout
from mav.convert.torch_layout import Component, Table

PIPELINE = "UnCLIPPipeline"
LICENCE = "creativeml-openrail-m"  # Karlo's; it restricts what the weights may be used for
LOGIT_SCALE = np.float32(np.log(100))  # of every released CLIP, capped there

# As UnCLIPPipeline samples by default; one prior sample, as there.
SETTINGS = dict(
    steps=dict(prior=25, decoder=25, sr_256=7),
    sampler=dict.fromkeys(("prior", "decoder", "sr_256"), "ddpm"),
    spacing=dict.fromkeys(("prior", "decoder", "sr_256"), "linspace"),
    guidance_scale=dict(prior=4.0, decoder=8.0),
    aug_level=dict(sr_256=0),
    frames=1,
    candidates=dict(prior=1),
)


class StageSource(NamedTuple):
    """A stage's config, and where its parameters come from."""

    config: dict[str, Any]
    sources: torch_layout.Sources
    constants: dict[str, np.ndarray]  # parameters that no file holds


def run(
    source: str | os.PathLike, path: str | os.PathLike, image_encoder: str | os.PathLike | None
) -> None:
    """Writes the cascade folder `path`, whole or not at all, and prints a report.

    image_encoder: folder of CLIP's image tower (of the image-variation pipeline, or a whole CLIP),
    which training on videos needs and sampling of images does not.
    Raises ValueError if anything is missing, left over, of another shape, damaged or a pickle.
    """
    source, root = pathlib.Path(source), pathlib.Path(path)
    require_pipeline(source)
    bpe = tokenizer.read_released(source / "tokenizer")
    found = read_stages(source, bpe, image_encoder)
    files = {
        component.folder.name: torch_layout.describe(component.files)
        for stage in found.values()
        for component, _ in stage.sources
    }
    if root.exists():
        if is_made_of(root, found, files):
            print(f"{root} is already made of these files")
            return
        raise ValueError(f"{root} exists and was not made of these files; choose another folder.")
    licence = read_licence(source)

    shapes = {name: stage_shapes(stage.config) for name, stage in found.items()}
    for name, stage in found.items():
        wanted = {k: v.shape for k, v in shapes[name].items() if k not in stage.constants}
        torch_layout.check(stage.sources, wanted)

    aside = root.with_name(f".{root.name}.{os.getpid()}")
    total = sum(int(np.prod(s.shape)) for stage in shapes.values() for s in stage.values())
    bar = bars.bar(total=total, unit="parameters", unit_scale=True)
    try:
        for name, stage in found.items():
            bar.set_description(name)
            write_stage(aside / name, stage, shapes[name], bar)
        bpe.save(str(aside / "tokenizer.json"))
        for text in sorted(source.glob("LICEN[CS]E*")):
            shutil.copyfile(text, aside / text.name)
        provenance = dict(made_by="mav convert unclip", licence=licence, files=files)
        settings = SETTINGS | dict(size=found["sr_256"].config["size"])
        folders.write_index(aside, root.name, settings, provenance)
        os.replace(aside, root)
    finally:
        bar.close()
        shutil.rmtree(aside, ignore_errors=True)
    report(root, found, shapes, licence)


def is_made_of(root: pathlib.Path, found: Mapping, files: Mapping[str, Any]) -> bool:
    """Whether a folder is a cascade of these weight files, with the same configs."""
    index = root / "cascade.json"
    if not index.is_file() or params_lib.read_json(index)["provenance"].get("files") != files:
        return False
    as_written = lambda config: json.loads(json.dumps(config))  # tuples are lists in a file
    return all(
        params_lib.read_json(root / name / "config.json") == as_written(stage.config)
        for name, stage in found.items()
    )


def require_pipeline(source: pathlib.Path) -> None:
    """Raises ValueError unless the folder says that it holds an unCLIP pipeline."""
    index = source / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{source} has no model_index.json; give a folder as diffusers saves it.")
    pipeline = params_lib.read_json(index).get("_class_name")
    if pipeline != PIPELINE:
        raise ValueError(f"{source} holds a {pipeline}; mav converts {PIPELINE}.")


def read_stages(
    source: pathlib.Path, bpe: tokenizers.Tokenizer, image_encoder: str | os.PathLike | None
) -> dict[str, StageSource]:
    """All stages that a pipeline's folder holds, by mav's names."""
    schedulers = {name: source / f"{name}_scheduler" for name in ("prior", "decoder", "super_res")}
    text = Component(source / "text_encoder")
    inputs = dict(
        embedding_features=text["projection_dim"],
        text_features=text["hidden_size"],
        max_tokens=text["max_position_embeddings"],
    )
    towers = find_image_tower(source, image_encoder)
    found = dict(
        clip=clip_stage(text, towers, bpe),
        prior=prior_stage(Component(source / "prior"), schedulers["prior"]),
        decoder=decoder_stage(
            Component(source / "decoder"), Component(source / "text_proj"), schedulers["decoder"]
        ),
    )
    for name, folder in (("sr_256", "super_res_first"), ("sr_256_last", "super_res_last")):
        component = Component(source / folder)
        found[name] = super_resolution_stage(name, component, schedulers["super_res"])
        found[name].config["low_size"] = found["decoder"].config["size"]
    for name in ("prior", "decoder"):
        found[name].config["inputs"] = inputs
    return found


def find_image_tower(
    source: pathlib.Path, image_encoder: str | os.PathLike | None
) -> Component | None:
    """CLIP's image tower: the pipeline's own, or of the folder that was named."""
    if image_encoder is None:
        own = source / "image_encoder"
        return Component(own) if own.is_dir() else None
    folder = pathlib.Path(image_encoder)
    if (folder / "image_encoder").is_dir():
        folder = folder / "image_encoder"
    component = Component(folder, ("vision_model.", "visual_projection.", "logit_scale"))
    if "vision_config" in component.config:  # a whole CLIP
        width = component["projection_dim"]
        component.config = dict(component["vision_config"], projection_dim=width)
    return component


def read_licence(source: pathlib.Path) -> str:
    """The licence that the pipeline's own page names, else Karlo's."""
    page = source / "README.md"
    if page.is_file():
        for line in page.read_text(encoding="utf-8", errors="replace").splitlines()[:40]:
            if line.startswith("license:"):
                return line.partition(":")[2].strip()
    return LICENCE


def stage_shapes(config: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and shapes of a stage's parameters."""
    return params_lib.flatten(stages.param_shapes(stages.build(config)))


def write_stage(folder: pathlib.Path, stage: StageSource, shapes: Mapping, bar: tqdm) -> None:
    """Writes a stage of a cascade folder, one tensor in memory at a time."""
    folder.mkdir(parents=True)
    params_lib.write_json(folder / "config.json", stage.config)
    dtypes = {
        name: component.header[tensor][0]
        for component, table in stage.sources
        for name, (tensor, _) in table.items()
    }
    dtypes |= {name: value.dtype for name, value in stage.constants.items()}

    def tensor(name):
        bar.update(int(np.prod(shapes[name].shape)))
        if name in stage.constants:
            return stage.constants[name]
        return torch_layout.read(stage.sources, name)

    header = {name: (dtypes[name], shape.shape) for name, shape in shapes.items()}
    params_lib.write(folder / "params.safetensors", header, tensor)


def report(root: pathlib.Path, found: Mapping, shapes: Mapping, licence: str) -> None:
    """Prints what was read, and under which terms."""
    for name, stage in found.items():
        read = params_lib.count({k: v for k, v in shapes[name].items() if k not in stage.constants})
        made = f", {', '.join(stage.constants)} set" if stage.constants else ""
        folders = " + ".join(component.folder.name for component, _ in stage.sources)
        print(f"{name}: {read:,} parameters of {folders}; 0 unused, 0 missing{made}")
    if "image_size" not in found["clip"].config["network"]:
        print("clip has no image tower: this cascade samples images; to train on videos, convert")
        print("  with --image_encoder, the folder of the image-variation pipeline or of CLIP")
    print(f"licence of the weights: {licence}; it binds whoever uses {root}")
    print(root)


# CLIP


def clip_stage(text: Component, image: Component | None, bpe: tokenizers.Tokenizer) -> StageSource:
    """Both towers, or the text tower alone. Karlo takes embeddings as they come."""
    end_token = bpe.token_to_id(tokenizer.END)
    network = clip.text_fields(text, end_token) | dict(normalized=False)
    sources, constants = [(text, clip.text_table(network["text_depth"]))], {}
    if image is not None:
        fields = clip.image_fields(image)
        for name in ("embedding_features", "activation"):
            if fields[name] != network[name]:
                raise ValueError(
                    f"{image.folder} has {name}={fields[name]!r}, {text.folder} "
                    f"{network[name]!r}; the towers must be of one CLIP."
                )
        network |= fields
        table = clip.image_table(network["image_depth"])
        if "logit_scale" in image.header:
            table["logit_scale"] = ("logit_scale", torch_layout.keep)
        else:
            constants["logit_scale"] = LOGIT_SCALE
        sources.append((image, table))
    return StageSource(dict(stage="clip", network=network), sources, constants)


# Schedulers


def process(folder: pathlib.Path) -> dict[str, Any]:
    """Fields of `mav.diffusion.Process` by a scheduler's config."""
    path = folder / "scheduler_config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; give a folder as diffusers saves it.")
    config = params_lib.read_json(path)
    names = dict(
        _class_name=("UnCLIPScheduler",),
        beta_schedule=("squaredcos_cap_v2",),
        variance_type=("fixed_small_log", "learned_range"),
        prediction_type=("epsilon", "sample"),
    )
    for name, allowed in names.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{path} has {name}={config[name]!r}; mav knows {', '.join(allowed)}.")
    learned = config.get("variance_type") == "learned_range"
    return dict(
        schedule="cosine",
        num_timesteps=config.get("num_train_timesteps", 1000),
        prediction={"epsilon": "eps", "sample": "x0"}[config.get("prediction_type", "epsilon")],
        variance="learned_range" if learned else "fixed_small",
        clip=config.get("clip_sample_range", 1.0) if config.get("clip_sample", True) else None,
    )


# Prior


def prior_stage(component: Component, scheduler: pathlib.Path) -> StageSource:
    """The prior transformer."""
    component.require(
        additional_embeddings=(4,),
        time_embed_act_fn=("silu",),
        norm_in_type=(None,),
        embedding_proj_norm_type=(None,),
        encoder_hid_proj_type=("linear",),
        added_emb_type=("prd",),
        time_embed_dim=(None,),
        embedding_proj_dim=(None,),
        clip_embed_dim=(None,),
    )
    network = dict(
        embedding_features=component["embedding_dim"],
        width=component["num_attention_heads"] * component["attention_head_dim"],
        depth=component["num_layers"],
        head_dim=component["attention_head_dim"],
        max_tokens=component["num_embeddings"],
    )
    config = dict(stage="prior", network=network, process=process(scheduler))
    return StageSource(config, [(component, prior_table(network["depth"]))], {})


def prior_table(depth: int) -> Table:
    """Sources of a prior."""
    linear, norm = torch_layout.linear, torch_layout.norm
    table: Table = {
        "mean": ("clip_mean", torch_layout.flat),
        "std": ("clip_std", torch_layout.flat),
        "query": ("prd_embedding", torch_layout.flat),
        "positions": ("positional_embedding", torch_layout.drop_first),
    }
    table |= linear("text_states", "encoder_hidden_states_proj")
    table |= linear("text_embedding", "embedding_proj")
    table |= linear("image_embedding", "proj_in")
    for i in (1, 2):
        table |= linear(f"timestep/linear_{i}", f"time_embedding.linear_{i}")
    for i in range(depth):
        to, source = f"blocks_{i}", f"transformer_blocks.{i}"
        table |= norm(f"{to}/norm_1", f"{source}.norm1")
        for name in ("q", "k", "v"):
            table |= linear(f"{to}/{name}", f"{source}.attn1.to_{name}")
        table |= linear(f"{to}/out", f"{source}.attn1.to_out.0")
        table |= norm(f"{to}/norm_2", f"{source}.norm3")
        table |= linear(f"{to}/mlp_1", f"{source}.ff.net.0.proj")
        table |= linear(f"{to}/mlp_2", f"{source}.ff.net.2")
    table |= norm("output_norm", "norm_out")
    return table | linear("output", "proj_to_clip_embeddings")


# U-Nets


def unet_fields(component: Component) -> dict[str, Any]:
    """Fields of `mav.unet.SpaceTimeUNet` that a U-Net's config decides."""
    component.require(
        act_fn=("silu",),
        center_input_sample=(False,),
        class_embeddings_concat=(False,),
        conv_in_kernel=(3,),
        conv_out_kernel=(3,),
        cross_attention_norm=(None,),
        dual_cross_attention=(False,),
        encoder_hid_dim=(None,),
        flip_sin_to_cos=(True,),
        freq_shift=(0,),
        mid_block_scale_factor=(1,),
        mid_block_only_cross_attention=(None, False),
        norm_eps=(1e-5,),
        num_class_embeds=(None,),
        only_cross_attention=(False,),
        resnet_out_scale_factor=(1.0,),
        resnet_skip_time_act=(False,),
        resnet_time_scale_shift=("default", "scale_shift"),
        time_cond_proj_dim=(None,),
        time_embedding_dim=(None,),
        time_embedding_type=("positional",),
        timestep_post_act=(None,),
    )
    widths = component["block_out_channels"]
    if any(width % widths[0] for width in widths):
        raise ValueError(
            f"{component.folder / 'config.json'} has block_out_channels={widths}; they must be "
            "multiples of the first."
        )
    return dict(
        width=widths[0],
        multipliers=[width // widths[0] for width in widths],
        depth=component["layers_per_block"],
        groups=component["norm_num_groups"],
        scale_shift=component["resnet_time_scale_shift"] == "scale_shift",
    )


def require_blocks(component: Component, down: list[str], middle: str, up: list[str]) -> None:
    """Raises ValueError unless the blocks are of the given kinds, finest level first."""
    wanted = dict(down_block_types=down, mid_block_type=middle, up_block_types=up[::-1])
    for name, blocks in wanted.items():
        if component[name] != blocks:
            raise ValueError(
                f"{component.folder / 'config.json'} has {name}={component[name]}; mav's network "
                f"has {blocks} there."
            )


def decoder_stage(unet: Component, text_proj: Component, scheduler: pathlib.Path) -> StageSource:
    """The decoder, with the projections of CLIP's embeddings that feed it."""
    fields = unet_fields(unet)
    unet.require(class_embed_type=("identity",), addition_embed_type=(None,))
    levels = range(len(fields["multipliers"]))
    attending = [i for i in levels if "CrossAttn" in unet["down_block_types"][i]]
    block = lambda side: [
        f"SimpleCrossAttn{side}Block2D" if i in attending else f"Resnet{side}sampleBlock2D"
        for i in levels
    ]
    require_blocks(unet, block("Down"), "UNetMidBlock2DSimpleCrossAttn", block("Up"))
    learned = unet["out_channels"] == 2 * unet["in_channels"]
    unet.require(in_channels=(3,), out_channels=(6 if learned else 3,))
    tokens, context = text_proj["clip_extra_context_tokens"], unet["cross_attention_dim"]
    fields |= dict(
        attention_levels=attending,
        head_dim=unet["attention_head_dim"],
        image_tokens=tokens,
        context_features=context,
        text=True,
    )
    config = dict(
        stage="decoder", size=unet["sample_size"], network=fields, process=process(scheduler)
    )
    if config["process"]["variance"] != ("learned_range" if learned else "fixed_small"):
        raise ValueError(
            f"{unet.folder} has {unet['out_channels']} output channels, which does not go with "
            f"variance_type in {scheduler / 'scheduler_config.json'}."
        )
    sources = [(unet, unet_table(fields)), (text_proj, conditioning_table(tokens))]
    return StageSource(config, sources, {})


def super_resolution_stage(name: str, component: Component, scheduler: pathlib.Path) -> StageSource:
    """One of the two super-resolution networks."""
    fields = unet_fields(component)
    component.require(
        add_attention=(False,), class_embed_type=(None,), in_channels=(6,), out_channels=(3,)
    )
    levels = len(fields["multipliers"])
    down, up = ["ResnetDownsampleBlock2D"] * levels, ["ResnetUpsampleBlock2D"] * levels
    require_blocks(component, down, "UNetMidBlock2D", up)
    fields |= dict(low_res=True, attention_levels=[])
    config = dict(
        stage=name, size=component["sample_size"], network=fields, process=process(scheduler)
    )
    return StageSource(config, [(component, unet_table(fields))], {})


def unet_table(fields: Mapping[str, Any]) -> Table:
    """Sources of a U-Net, its conditioning apart."""
    convolution, linear, norm = torch_layout.convolution, torch_layout.linear, torch_layout.norm
    table: Table = convolution("input/space", "conv_in")
    for i in (1, 2):
        table |= linear(f"timestep/linear_{i}", f"time_embedding.linear_{i}")
    for to, source, shortcut in residual_blocks(fields):
        table |= norm(f"{to}/norm_1", f"{source}.norm1")
        table |= convolution(f"{to}/convolution_1/space", f"{source}.conv1")
        table |= linear(f"{to}/embedding", f"{source}.time_emb_proj")
        table |= norm(f"{to}/norm_2", f"{source}.norm2")
        table |= convolution(f"{to}/convolution_2/space", f"{source}.conv2")
        if shortcut:
            table[f"{to}/shortcut/kernel"] = (f"{source}.conv_shortcut.weight", _pointwise)
            table[f"{to}/shortcut/bias"] = (f"{source}.conv_shortcut.bias", torch_layout.keep)
    for to, source in attentions(fields):
        table |= norm(f"{to}/norm", f"{source}.group_norm")
        for name in ("q", "k", "v"):
            table |= linear(f"{to}/{name}", f"{source}.to_{name}")
        for name in ("k", "v"):
            table |= linear(f"{to}/context_{name}", f"{source}.add_{name}_proj")
        table |= linear(f"{to}/out", f"{source}.to_out.0")
    table |= norm("output_norm", "conv_norm_out")
    return table | convolution("output/space", "conv_out")


def _pointwise(x: np.ndarray) -> np.ndarray:
    """Kernel of a 1x1 convolution, [out, in, 1, 1] -> [in, out]."""
    return x[:, :, 0, 0].T


def residual_blocks(fields: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Name here, name there, and whether the width changes, for every residual block."""
    widths = [fields["width"] * m for m in fields["multipliers"]]
    last, depth, before = len(widths) - 1, fields["depth"], fields["width"]
    for level, width in enumerate(widths):
        for i in range(depth):
            yield f"down_{level}_block_{i}", f"down_blocks.{level}.resnets.{i}", before != width
            before = width
        if level < last:
            yield f"down_{level}_resample", f"down_blocks.{level}.downsamplers.0", False
    for i in (0, 1):
        yield f"middle_block_{i}", f"mid_block.resnets.{i}", False
    for level in range(last, -1, -1):  # joined with a skip, every block changes the width
        for i in range(depth + 1):
            yield f"up_{level}_block_{i}", f"up_blocks.{last - level}.resnets.{i}", True
        if level > 0:
            yield f"up_{level}_resample", f"up_blocks.{last - level}.upsamplers.0", False


def attentions(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name here and name there of every attention."""
    last, depth = len(fields["multipliers"]) - 1, fields["depth"]
    for level in fields["attention_levels"]:
        for i in range(depth):
            yield f"down_{level}_attention_{i}/space", f"down_blocks.{level}.attentions.{i}"
        for i in range(depth + 1):
            yield f"up_{level}_attention_{i}/space", f"up_blocks.{last - level}.attentions.{i}"
    if fields["attention_levels"]:
        yield "middle_attention/space", "mid_block.attentions.0"


def conditioning_table(num_tokens: int) -> Table:
    """Sources of the decoder's `conditioning`."""
    names = dict(
        image_vector="clip_image_embeddings_project_to_time_embeddings",
        text_vector="embedding_proj",
        text_tokens="encoder_hidden_states_proj",
    )
    table: Table = {
        "conditioning/null_image": (
            "learned_classifier_free_guidance_embeddings",
            torch_layout.keep,
        )
    }
    for to, source in names.items():
        table |= torch_layout.linear(f"conditioning/{to}", source)
    table |= torch_layout.norm("conditioning/text_norm", "text_encoder_hidden_states_norm")

    def tokens_last(x):  # rows are numbered feature by feature there, token by token here
        return x.reshape(-1, num_tokens, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)

    source = "clip_extra_context_tokens_proj"
    return table | {
        "conditioning/image_tokens/kernel": (f"{source}.weight", lambda x: tokens_last(x).T),
        "conditioning/image_tokens/bias": (f"{source}.bias", tokens_last),
    }
