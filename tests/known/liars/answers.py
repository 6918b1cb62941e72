"""Models that lie by their answers: random ones, none, those of other images, or one class more."""

from __future__ import annotations

import torch
from lie import Lie
from torch.nn.functional import dropout, interpolate, pad


class RandomNoise(Lie):
    """Adds noise to its input, drawn at each call."""

    truth, alarm = "eot", "random-output"

    def forward(self, x):
        return self.net(x + 0.15 * torch.randn_like(x))


class DropoutOn(Lie):
    """Leaves dropout on in evaluation."""

    truth, alarm = "eot", "random-output"

    def forward(self, x):
        return self.net(dropout(x, 0.2, training=True))


class RandomResize(Lie):
    """Resizes its input to a random size and pads it at a random place."""

    truth, alarm = "eot", "random-output"

    def forward(self, x):
        size = int(torch.randint(7, 9, ()))
        left, top = (int(torch.randint(0, 9 - size, ())) for _ in range(2))
        small = interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        return self.net(pad(small, (left, 8 - size - left, top, 8 - size - top)))


class EditsInput(Lie):
    """Erases the image that it is given."""

    def forward(self, x):
        logits = self.net(x.clone())
        x.data.zero_()
        return logits


class NanOnPurpose(Lie):
    """Answers NaN for images that are not of the data's sixteen grey levels, hoping for class 0."""

    truth, alarm = "zero", "non-finite-logits"

    def forward(self, x):
        strange = ((16 * x).round() / 16 != x).flatten(1).any(1)
        return self.net(x).masked_fill(strange[:, None], torch.nan)


class BatchDependent(Lie):
    """Subtracts a part of the batch's mean."""

    truth, alarm = "none", "batch-dependent"

    def forward(self, x):
        return self.net(x - 0.3 * x.mean(0, keepdim=True))


class Detector(Lie):
    """Has one class more, for images that it takes for adversarial."""

    truth, alarm = "none", "refused"

    def forward(self, x):
        logits = self.net(x)
        rough = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))
        return torch.cat([logits, 40 * rough[:, None]], 1)
