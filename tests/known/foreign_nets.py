"""Networks and layers of other projects, restated for tests of their tickets."""

from __future__ import annotations

import torch
from torch import nn

KEPT = 0.3


class Subnet(nn.Conv2d):
    """The published convolution: scores of the weight's shape or of its first dimensions, sorted anew."""

    def __init__(self, inputs, outputs, kernel, dims, name="scores", stride=1):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        scores = torch.empty(self.weight.shape[:dims])
        nn.init.normal_(scores)
        self.register_parameter(name, nn.Parameter(scores))
        self.name, self.kept = name, KEPT
        self.weight.requires_grad_(False)

    def forward(self, x):
        scores = getattr(self, self.name).abs()
        out = scores.clone()
        _, order = scores.flatten().sort()
        dropped = int((1 - self.kept) * scores.numel())
        flat = out.flatten()
        flat[order[:dropped]] = 0
        flat[order[dropped:]] = 1
        mask = flat.view(scores.shape)
        while mask.dim() < 4:
            mask = mask.unsqueeze(-1)
        return nn.functional.conv2d(x, self.weight * mask, None, self.stride, self.padding)


class Conv2(nn.Module):
    """The published Conv2, its linear layers being 1x1 convolutions, here with non-affine batch norm."""

    def __init__(self, dims, name="scores", width=6, hidden=26):
        super().__init__()
        self.convs = nn.Sequential(
            Subnet(1, width, 3, dims, name), nn.BatchNorm2d(width, affine=False), nn.ReLU(),
            Subnet(width, width, 3, dims, name), nn.BatchNorm2d(width, affine=False), nn.ReLU(),
            nn.MaxPool2d(2),
        )  # fmt: skip
        self.linear = nn.Sequential(
            Subnet(16 * width, hidden, 1, dims, name), nn.BatchNorm2d(hidden, affine=False), nn.ReLU(),
            Subnet(hidden, hidden, 1, dims, name), nn.BatchNorm2d(hidden, affine=False), nn.ReLU(),
            Subnet(hidden, 10, 1, min(dims, 2), name),
        )  # fmt: skip

    def forward(self, x):
        out = self.convs(x)
        return self.linear(out.view(len(x), -1, 1, 1)).flatten(1)


def trained_a_little(net, images):
    """Norm statistics that are not those of a fresh network."""
    x, _ = images.at(slice(None))
    with torch.no_grad():
        for _ in range(3):
            net.train()(x)
    return net.eval()


def signed_constants(net):
    for part in net.modules():
        if isinstance(part, Subnet):
            part.weight.data = part.weight.sign() * (2 / part.weight[0].numel()) ** 0.5
