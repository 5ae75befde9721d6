"""CLIP as transformers stores it: text tower, image tower, or both in one folder."""

from typing import Any

from mav.convert import torch_layout
from mav.convert.torch_layout import Component, Table

ACTIVATIONS = ("quick_gelu", "gelu")


def text_fields(component: Component, end_token: int) -> dict[str, Any]:
    """Fields of `mav.clip.CLIP` that a text tower's config decides."""
    component.require(hidden_act=ACTIVATIONS, layer_norm_eps=(1e-5,))
    c = component
    component.require(intermediate_size=(4 * c["hidden_size"],))
    return dict(
        embedding_features=c["projection_dim"],
        vocabulary_size=c["vocab_size"],
        max_tokens=c["max_position_embeddings"],
        end_token=end_token,
        text_width=c["hidden_size"],
        text_depth=c["num_hidden_layers"],
        text_head_dim=c["hidden_size"] // c["num_attention_heads"],
        activation=c["hidden_act"],
    )


def image_fields(component: Component) -> dict[str, Any]:
    """Fields of `mav.clip.CLIP` that an image tower's config decides."""
    component.require(hidden_act=ACTIVATIONS, layer_norm_eps=(1e-5,), num_channels=(3,))
    c = component
    component.require(intermediate_size=(4 * c["hidden_size"],))
    return dict(
        embedding_features=c["projection_dim"],
        image_size=c["image_size"],
        patch=c["patch_size"],
        image_width=c["hidden_size"],
        image_depth=c["num_hidden_layers"],
        image_head_dim=c["hidden_size"] // c["num_attention_heads"],
        activation=c["hidden_act"],
    )


def text_table(depth: int) -> Table:
    """Sources of a text tower."""
    to, source = "text/", "text_model."
    table = {
        f"{to}tokens/embedding": (f"{source}embeddings.token_embedding.weight", torch_layout.keep),
        f"{to}positions": (f"{source}embeddings.position_embedding.weight", torch_layout.keep),
    }
    for i in range(depth):
        table |= block_table(f"{to}block_{i}", f"{source}encoder.layers.{i}")
    table |= torch_layout.norm(f"{to}norm", f"{source}final_layer_norm")
    return table | torch_layout.linear(f"{to}projection", "text_projection", bias=False)


def image_table(depth: int) -> Table:
    """Sources of an image tower."""
    to, source = "image/", "vision_model."
    table = {
        f"{to}class": (f"{source}embeddings.class_embedding", torch_layout.keep),
        f"{to}patches/kernel": (f"{source}embeddings.patch_embedding.weight", _patch_kernel),
        f"{to}positions": (f"{source}embeddings.position_embedding.weight", torch_layout.keep),
    }
    table |= torch_layout.norm(f"{to}input_norm", f"{source}pre_layrnorm")  # their spelling
    for i in range(depth):
        table |= block_table(f"{to}block_{i}", f"{source}encoder.layers.{i}")
    table |= torch_layout.norm(f"{to}norm", f"{source}post_layernorm")
    return table | torch_layout.linear(f"{to}projection", "visual_projection", bias=False)


def _patch_kernel(x):
    """[width, 3, p, q] -> [p * q * 3, width]: a convolution without overlap as a product."""
    return x.transpose(2, 3, 1, 0).reshape(-1, len(x))


def block_table(to: str, source: str) -> Table:
    """Sources of one transformer block."""
    table = torch_layout.norm(f"{to}/norm_1", f"{source}.layer_norm1")
    for name in ("q", "k", "v", "out"):
        table |= torch_layout.linear(f"{to}/{name}", f"{source}.self_attn.{name}_proj")
    table |= torch_layout.norm(f"{to}/norm_2", f"{source}.layer_norm2")
    for i in (1, 2):
        table |= torch_layout.linear(f"{to}/mlp_{i}", f"{source}.mlp.fc{i}")
    return table
