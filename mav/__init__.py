"""Make-A-Video in JAX: text to video, learned from captioned images and silent videos."""

from mav import media
from mav.cascade import Cascade, Settings, load
from mav.clip import CLIP
from mav.layers import Pseudo3DConv, SpaceTimeAttention
from mav.prior import PriorTransformer
from mav.unet import SpaceTimeUNet

__all__ = [
    "CLIP",
    "Cascade",
    "PriorTransformer",
    "Pseudo3DConv",
    "Settings",
    "SpaceTimeAttention",
    "SpaceTimeUNet",
    "load",
    "media",
]
__version__ = "0.1.0"
