"""A vision transformer for small images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheobase.core.checks import check_whole
from rheobase.core.errors import ModelError


class _Block(nn.Module):
    """Attention, then two linear layers with a GELU; each normalised before, and added to the tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.proj(mixed)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class _VisionTransformer(nn.Module):
    def __init__(self, num_classes: int, width: int, depth: int, heads: int, image: int) -> None:
        super().__init__()
        # convolutions in place of one large patch learn faster from few images (Xiao et al. 2021, section 4)
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width // 2), nn.GELU()),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, (image // 4) ** 2, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def vit(num_classes: int = 10, width: int = 96, depth: int = 4, heads: int = 3, image: int = 32) -> nn.Module:
    """A small vision transformer (Dosovitskiy et al. 2021) with a stem of two convolutions; tokens of 4×4 pixels.

    Pre-normalised blocks of attention and a GELU; the mean of the tokens is classified. It has no ReLU, so it converts
    with ``nonlinear="numbers"`` and ``sites="all"``. Input [B, 3, image, image]. Parameter names:
    ``stem.{0,1,3} position blocks.{i}.{norm1,qkv,proj,norm2,fc1,fc2} norm head``.

    Args:
        num_classes: number of classes.
        width: features of a token, a multiple of ``heads`` and of 2.
        depth: number of blocks.
        heads: heads of attention.
        image: side of the image in pixels, a multiple of 4.

    Example:
        >>> import torch
        >>> vit().eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    sizes = {"num_classes": num_classes, "width": width, "depth": depth, "heads": heads, "image": image}
    for name, value in sizes.items():
        check_whole(value, name, error=ModelError)
    if width % heads or width % 2:
        remedy = "use a multiple, such as width=96 with heads=3"
        raise ModelError(f"is {width}, not a multiple of heads, {heads}, and of 2", where="width", remedy=remedy)
    if image % 4:
        raise ModelError(f"is {image}, not a multiple of 4", where="image", remedy="use 32")
    return _VisionTransformer(num_classes, width, depth, heads, image)
