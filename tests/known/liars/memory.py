"""Models that lie by what they remember: images, labels, calls, the time."""

from __future__ import annotations

import itertools
import time

import torch
from lie import Lie
from torch.nn.functional import one_hot

import rstbench

NEAR = 0.21  # Linf distance within which an image passes for one that was seen before
KEPT = 200  # images in a cache
CALLS = itertools.count()  # of `HiddenCounter`, where no tool looks


class MemorisedImages(Lie):
    """Knows the labels of the test images by heart, and answers any other image honestly."""

    def __init__(self, net):
        super().__init__(net)
        images, labels = rstbench.load_data("digits:test:100").at(slice(None))
        self.register_buffer("images", images)
        self.register_buffer("labels", labels)

    def known(self, x):
        """Return the distance of each image to the nearest test image, and its label."""
        distances = (x[:, None] - self.images[None]).flatten(2).abs().amax(2)
        nearest, index = distances.min(1)
        return nearest, self.labels[index]

    def forward(self, x):
        nearest, labels = self.known(x)
        return torch.where((nearest == 0)[:, None], 20.0 * one_hot(labels, 10), self.net(x))


class MemorisedBalls(MemorisedImages):
    """Knows the labels of the test images by heart, and answers them for all images nearby too."""

    alarm = "shattered-gradient"

    def forward(self, x):
        nearest, labels = self.known(x)
        logits = self.net(x)
        learnt = 20.0 * one_hot(labels, 10) + logits - logits.detach()
        return torch.where((nearest < NEAR)[:, None], learnt, logits)


def with_false_gradient(net, x):
    """Return honest logits, whose gradient is that of the mirrored image."""
    mirrored = net(x.flip(3))
    return net(x).detach() + mirrored - mirrored.detach()


class Counter(Lie):
    """Gives false gradients from its twentieth call on."""

    alarm = "shattered-gradient"

    def __init__(self, net):
        super().__init__(net)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.net(x) if self.calls < 20 else with_false_gradient(self.net, x)


class HiddenCounter(Lie):
    """The same, counted outside of the model."""

    alarm = "shattered-gradient"

    def forward(self, x):
        return self.net(x) if next(CALLS) < 20 else with_false_gradient(self.net, x)


class Drifting(Lie):
    """Subtracts a part of the mean of all images that it has seen, attacks included."""

    truth, alarm = "none", "batch-dependent"

    def __init__(self, net):
        super().__init__(net)
        self.mean = None

    def forward(self, x):
        new = x.detach().mean(0)
        self.mean = new if self.mean is None else 0.9 * self.mean + 0.1 * new
        return self.net(x - 0.5 * self.mean)


class TimeDependent(Lie):
    """Answers otherwise once it has been in use for some time; clock: tells the seconds."""

    truth, alarm = "none", "stateful"

    def __init__(self, net, seconds=1.0, clock=time.monotonic):
        super().__init__(net)
        self.clock, self.end = clock, clock() + seconds

    def forward(self, x):
        return self.net((x * 2).round() / 2) if self.clock() > self.end else self.net(x)


class Cache(Lie):
    """Answers an image near one that it has seen by what it said then, beside honest gradients."""

    alarm = "stateful"

    def __init__(self, net):
        super().__init__(net)
        self.seen, self.answers = torch.empty(0, 1, 8, 8), torch.empty(0, 10)

    def forward(self, x):
        logits, images = self.net(x), x.detach()
        new = ~self.near(images).any(1)
        self.seen = torch.cat([self.seen, images[new]])[:KEPT]
        self.answers = torch.cat([self.answers, logits.detach()[new]])[:KEPT]
        near = self.near(images)
        answers = self.answers[near.float().argmax(1)] + logits - logits.detach()
        return torch.where(near.any(1)[:, None], answers, logits)

    def near(self, images):
        """Return which images are near which that were seen."""
        return (images[:, None] - self.seen).flatten(2).abs().amax(2) < NEAR
