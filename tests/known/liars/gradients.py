"""Models that lie by their gradients: none, false ones, or ones that lead nowhere."""

from __future__ import annotations

import torch
from lie import Lie


class _Gradient(torch.autograd.Function):
    """The identity, with any function of the gradient in place of the gradient."""

    @staticmethod
    def forward(context, x, change):
        context.change = change
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        return context.change(gradient), None


def replaced_gradient(x, change):
    """Return x, behind which any function of the gradient takes its place."""
    return _Gradient.apply(x, change)


class QuantisedGradients(Lie):
    """Rounds its gradient to multiples of two, which leaves few pixels any."""

    alarm = "zero-gradient"

    def forward(self, x):
        return self.net(replaced_gradient(x, lambda gradient: 2 * (gradient / 2).round()))


class NanGradients(Lie):
    """Its gradient is not a number."""

    alarm = "shattered-gradient"

    def forward(self, x):
        return self.net(replaced_gradient(x, lambda gradient: gradient * torch.nan))


class SaturatedSoftmax(Lie):
    """Returns probabilities of logits so large that all but one are zero."""

    alarm = "probabilities-not-logits"

    def forward(self, x):
        return (1000 * self.net(x)).softmax(1)


class SaturatedLogs(Lie):
    """Returns the logarithms of saturated probabilities, which look like logits."""

    alarm = "zero-gradient"

    def forward(self, x):
        return ((100 * self.net(x)).softmax(1) + 1e-6).log()


class ScaledUp(Lie):
    """Multiplies its logits by ten thousand: the cross-entropy vanishes in float32."""

    alarm = "zero-gradient"

    def forward(self, x):
        return 1e4 * self.net(x)


class ScaledDown(Lie):
    """Divides its logits by ten thousand: the cross-entropy hardly changes."""

    def forward(self, x):
        return 1e-4 * self.net(x)


class Shifted(Lie):
    """Adds a million to its logits, so that float32 rounds small differences off."""

    def forward(self, x):
        return self.net(x) + 1e6


class DetectsGradients(Lie):
    """Gives false gradients whenever gradients are asked for."""

    alarm = "shattered-gradient"

    def forward(self, x):
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient.flip(3))
        return self.net(x)


class OtherWithGradients(Lie):
    """Answers by another function whenever gradients are asked for."""

    alarm = "shattered-gradient"

    def forward(self, x):
        return self.net(x.flip(3)) if x.requires_grad else self.net(x)


class Jpeg(Lie):
    """Rounds the cosine coefficients of its input, which has no useful gradient."""

    truth, alarm = "bpda", "shattered-gradient"

    def __init__(self, net, step=0.4):
        super().__init__(net)
        place, wave = torch.arange(8.0)[None], torch.arange(8.0)[:, None]
        basis = (torch.pi * (2 * place + 1) * wave / 16).cos() / 2
        basis[0] /= 2**0.5
        self.register_buffer("basis", basis)
        self.step = step

    def forward(self, x):
        rounded = (self.basis @ x @ self.basis.T / self.step).round() * self.step
        return self.net(self.basis.T @ rounded @ self.basis)


class FewLevels(Lie):
    """Rounds its input to nine grey levels."""

    truth, alarm = "bpda", "shattered-gradient"

    def forward(self, x):
        return self.net((8 * x).round() / 8)


class ClippedPixels(Lie):
    """Clips pixels to their range, at whose ends its gradient vanishes: black and white pixels stay."""

    def forward(self, x):
        return self.net((255 * x).clamp(0, 255) / 255)


class Detached(Lie):
    """Lets no gradient through."""

    alarm = "refused"

    def forward(self, x):
        return self.net(x.detach())
