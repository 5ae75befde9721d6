"""C3D (Tran et al. 2015), trained on Sports-1M and then on UCF-101, as TGANv2 uses it.

The Inception Score of videos is measured with it (Saito et al. 2017, 2020). Names of layers are
those of github.com/pfnet-research/tgan2.
"""

from flax import linen as nn
from jaxtyping import Array, Float

from mav.evaluate import blocks

CLASSES = 101
SIZE, FRAMES = 112, 16
HIDDEN = 4096
BODY = dict(  # features of a convolution, or window and stride of a pool
    conv1a=64,
    pool1=(1, 2, 2),
    conv2a=128,
    pool2=(2, 2, 2),
    conv3a=256,
    conv3b=256,
    pool3=(2, 2, 2),
    conv4a=512,
    conv4b=512,
    pool4=(2, 2, 2),
    conv5a=512,
    conv5b=512,
    pool5=(2, 2, 2),
)


class Conv(nn.Module):
    """Convolution over 3 frames and 3 x 3 pixels, ReLU."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w d"]:
        kernel_init = nn.initializers.he_normal()
        kernel = self.param("kernel", kernel_init, (3, 3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return nn.relu(blocks.convolve(x, kernel, (1, 1, 1)) + bias[None, None, None, None])


class C3D(nn.Module):
    """Logits of UCF-101's actions."""

    @nn.compact
    def __call__(self, x: Float[Array, "b 16 112 112 3"]) -> Float[Array, "b 101"]:
        """x: BGR in [0, 255]; the mean that is taken from it is among the parameters."""
        mean = self.param("mean", nn.initializers.constant(128.0), (FRAMES, SIZE, SIZE, 3))
        x = x - mean[None]
        for name, what in BODY.items():
            # Of 7 x 7 pixels pool5 makes 4 x 4: Chainer lets the last window reach over the edge,
            # as SAME does. Ports to PyTorch that pad both edges shift all of them.
            x = Conv(what, name=name)(x) if "conv" in name else blocks.max_pool(x, what, what)
        x = x.reshape(len(x), -1)
        for name in ("fc6", "fc7"):
            x = nn.relu(nn.Dense(HIDDEN, name=name)(x))
        return nn.Dense(CLASSES, name="fc8")(x)
