"""Make-A-Video in JAX: text to video, learned from captioned images and silent videos."""

from mav import media
from mav.cascade import Cascade, Settings, load

__all__ = ["Cascade", "Settings", "load", "media"]
__version__ = "0.1.0"
