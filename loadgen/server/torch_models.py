"""Networks of the usual kinds, with random weights: what they compute means nothing, what they cost does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from loadgen.server.model_config import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Describe a network.

    Attributes:
        build: Returns the module; it takes the inputs, each with a batch in front, and returns one float tensor.
        inputs: What it takes.
        output: What it gives.
        words: What it is, for people.
    """

    build: Callable[[], Any]
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    words: str


class _Encoder(nn.Module):
    """Encode tokens as BERT does (Devlin et al., arXiv 1810.04805); the state of the first one is the output."""

    def __init__(self, *, layers: int, width: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.words = nn.Embedding(_VOCABULARY, width)
        self.places = nn.Parameter(torch.randn(tokens, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, ids: Any) -> Any:
        """Return (batch, width) for (batch, tokens)."""
        return self.layers(self.words(ids.remainder(_VOCABULARY)) + self.places)[:, 0]


class _Bottleneck(nn.Module):
    """Three convolutions and a way around them (He et al., arXiv 1512.03385, figure 5)."""

    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(given, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width),
        )  # fmt: skip
        is_same = stride == 1 and given == 4 * width
        self.around = nn.Identity() if is_same else nn.Conv2d(given, 4 * width, 1, stride, bias=False)

    def forward(self, x: Any) -> Any:
        """Return the block's output."""
        return torch.relu(self.body(x) + self.around(x))


def _resnet(*, blocks: tuple[int, ...], width: int) -> Any:
    """Return a ResNet of bottlenecks; (3, 4, 6, 3) and 64 make ResNet-50."""
    parts: list[Any] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    given = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            parts.append(_Bottleneck(given, width << stage, 2 if stage and not block else 1))
            given = 4 * width << stage
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(given, _CLASSES))


def _mlp() -> Any:
    return nn.Sequential(
        nn.Linear(_FEATURES, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, _CLASSES)
    )


_VOCABULARY, _CLASSES, _FEATURES = 30_522, 1000, 64


def _ids(tokens: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="IDS", datatype="INT64", dims=(tokens,)),)


def _image(side: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="IMAGE", datatype="FP32", dims=(3, side, side)),)


NETWORKS = {
    "encoder": Network(
        build=lambda: _Encoder(layers=12, width=768, heads=12, tokens=128), inputs=_ids(128),
        output=TensorSpec(name="STATE", dims=(768,)), words="a BERT-base-like encoder, 128 tokens",
    ),
    "encoder-tiny": Network(
        build=lambda: _Encoder(layers=2, width=128, heads=2, tokens=16), inputs=_ids(16),
        output=TensorSpec(name="STATE", dims=(128,)), words="an encoder of two layers, 16 tokens",
    ),
    "resnet": Network(
        build=lambda: _resnet(blocks=(3, 4, 6, 3), width=64), inputs=_image(224),
        output=TensorSpec(name="SCORES", dims=(_CLASSES,)), words="a ResNet-50-like network, 224 x 224",
    ),
    "resnet-tiny": Network(
        build=lambda: _resnet(blocks=(1, 1), width=8), inputs=_image(32),
        output=TensorSpec(name="SCORES", dims=(_CLASSES,)), words="a residual network of two blocks, 32 x 32",
    ),
    "mlp": Network(
        build=_mlp, inputs=(TensorSpec(name="X", datatype="FP32", dims=(_FEATURES,)),),
        output=TensorSpec(name="SCORES", dims=(_CLASSES,)), words="three linear layers of 1024",
    ),
}  # fmt: skip
