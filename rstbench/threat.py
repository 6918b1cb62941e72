"""The threat model: a norm ball around an image, inside the box [0, 1].

Distance, projection, steepest step and random start live here and nowhere else. Images are
batches of shape (n, …) with values in [0, 1]; eps is a fraction of that range, kept exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from .errors import BadRequest, OutsideBall
from .parsing import exact_number

if TYPE_CHECKING:
    from torch import Generator, Tensor

NORMS = ("Linf", "L2", "L1")
# Exact arithmetic would need none: float32 rounding of x + delta moves an image by this much.
LINF_TOLERANCE = 1e-6
RELATIVE_TOLERANCE = 1e-5
PIXEL_ROUNDING = 2.0**-23  # of a pixel in [0, 1], after a few operations in float32


@dataclass(frozen=True)
class Threat:
    """A threat model: all images within `eps` of the clean one in `norm`, and within the box [0, 1].

    Args:
        norm: 'Linf', 'L2' or 'L1', taken over all channels and pixels of one image.
        eps: Radius as a fraction of the pixel range [0, 1], kept exact.

    Example:
        >>> import rstbench, torch
        >>> threat = rstbench.Threat.parse("Linf:8/255")
        >>> threat.norm, str(threat.eps), str(threat)
        ('Linf', '8/255', 'Linf:8/255')
        >>> x = torch.zeros(2, 1, 8, 8)
        >>> threat.project(x, x + 1).amax().mul(255).round().item()
        8.0
    """

    norm: str
    eps: Fraction

    @classmethod
    def parse(cls, text: str) -> Threat:
        """Read a threat model from its text.

        Args:
            text: 'Linf:8/255', 'L2:0.5', 'L1:12'; the radius is a decimal or a fraction of the pixel range.

        Returns:
            The threat model; `str` of it is the canonical text.

        Raises:
            BadRequest: Where the text is anything else, or an Linf radius is above 1.
        """
        norm, colon, size = text.strip().partition(":")
        try:
            eps = exact_number(size)
        except ValueError:
            eps = Fraction(-1)
        if norm not in NORMS or not colon or not 0 <= eps < 10**6:
            raise BadRequest(f"a threat must read 'Linf:8/255', 'L2:0.5' or 'L1:12', got {text!r}")
        if norm == "Linf" and eps > 1:
            raise BadRequest(
                f"Linf eps is a fraction of the [0, 1] pixel range, got {text!r}; "
                f"for {size.strip()} grey levels write 'Linf:{size.strip()}/255'"
            )
        return cls(norm, eps)

    def __str__(self) -> str:
        return f"{self.norm}:{self.eps_text}"

    @property
    def eps_text(self) -> str:
        """Return eps as papers write it: '8/255', '0.5'."""
        return _shortest(self.eps)

    def distance(self, x: Tensor, adv: Tensor) -> Tensor:
        """Measure how far each image was moved.

        Args:
            x: Clean images, shape (n, ...).
            adv: Moved images of the same shape.

        Returns:
            The norm of `adv - x` of each image, shape (n,), float64.
        """
        delta = (adv.double() - x.double()).flatten(1)
        if self.norm == "Linf":
            return delta.abs().amax(1)
        distance: Tensor = delta.norm(p=2 if self.norm == "L2" else 1, dim=1)
        return distance

    def project(self, x: Tensor, adv: Tensor) -> Tensor:
        """Move images into the ball round the clean ones, then into the box.

        Linf is the nearest point of the intersection. L2 shrinks radially, L1 soft-thresholds (Duchi et al.
        2008); the clip to the box afterwards only shortens delta, because x lies in the box, but the result
        need not be the nearest point of the intersection.

        Args:
            x: Clean images in [0, 1], shape (n, ...).
            adv: Images of the same shape.

        Returns:
            The projected images, of the same shape.
        """
        eps = float(self.eps)
        if self.norm == "Linf":
            return adv.clamp(min=x - eps, max=x + eps).clamp(0, 1)
        delta = (adv - x).flatten(1)
        if self.norm == "L2":
            length = delta.norm(dim=1, keepdim=True)
            delta = delta * (eps / length.clamp_min(1e-12)).clamp_max(1)
        else:
            magnitude = delta.abs()
            shrunk = delta.sign() * (magnitude - simplex_threshold(magnitude, eps)).clamp_min(0)
            delta = delta.where(magnitude.sum(1, keepdim=True) <= eps, shrunk)
        return (x + delta.view_as(x)).clamp(0, 1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Give the steepest ascent direction of norm 1.

        Args:
            gradient: Gradients of the loss with respect to the images, shape (n, ...).

        Returns:
            For each image the direction d of norm 1 that maximises <gradient, d>; zero where the gradient is.
        """
        if self.norm == "Linf":
            return gradient.sign()
        flat = gradient.flatten(1)
        if self.norm == "L2":
            unit: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
            return unit.view_as(gradient)
        largest = flat.abs().argmax(1, keepdim=True)
        step = flat.new_zeros(flat.shape).scatter_(1, largest, flat.gather(1, largest).sign())
        return step.view_as(gradient)

    def step(self, adv: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Move images by one ascent step inside the box.

        Linf and L2 follow `steepest`. In L1 a step of 12 cannot be spent on one pixel, so the length is
        filled greedily over the pixels of largest gradient, each up to its wall.

        Args:
            adv: Images in [0, 1], shape (n, ...).
            gradient: Gradients of the loss, of the same shape.
            size: Length of the step in this norm, as a fraction of the pixel range.

        Returns:
            The moved images, not yet projected into the ball.
        """
        if self.norm != "L1":
            return (adv + size * self.steepest(gradient)).clamp(0, 1)
        flat, slope = adv.flatten(1), gradient.flatten(1)
        order = slope.abs().argsort(dim=1, descending=True, stable=True)
        sign = slope.gather(1, order).sign()
        pixels = flat.gather(1, order)
        room = ((sign > 0) * (1 - pixels) + (sign < 0) * pixels).clamp_min(0)
        spent_before = room.cumsum(1) - room
        move = sign * (size - spent_before).clamp_min(0).minimum(room)
        return (flat + flat.new_zeros(flat.shape).scatter_(1, order, move)).view_as(adv).clamp(0, 1)

    def ascend(self, x: Tensor, adv: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Move images by one step of projected gradient ascent: `step`, then `project`.

        Args:
            x: Clean images in [0, 1], shape (n, ...).
            adv: Images of the same shape.
            gradient: Gradients of the loss, of the same shape.
            size: Length of the step in this norm, as a fraction of the pixel range.

        Returns:
            The moved images, inside the ball and the box.
        """
        return self.project(x, self.step(adv, gradient, size))

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """Draw a uniform random point of the ball round each image, clipped to the box.

        Args:
            x: Clean images in [0, 1], shape (n, ...).
            generator: Source of randomness. Points are drawn on its device in float32 and moved to x's, so
                that a CPU generator gives the same start on every device.

        Returns:
            The random images, of x's shape and type.
        """
        import torch

        shape, size, device = x.shape, x[0].numel() if len(x) else 1, generator.device
        eps = float(self.eps)
        if self.norm == "Linf":
            delta = (2 * torch.rand(shape, generator=generator, device=device) - 1) * eps
            return self.project(x, x + delta.to(x))
        if self.norm == "L2":
            noise = torch.randn(shape, generator=generator, device=device).flatten(1)
        else:
            # Exponential magnitudes with random signs: uniform on the L1 sphere once normalised.
            uniform = torch.rand(shape, generator=generator, device=device).flatten(1)
            signs = torch.randint(0, 2, uniform.shape, generator=generator, device=device) * 2 - 1
            noise = -torch.log1p(-uniform) * signs
        length = noise.norm(p=2 if self.norm == "L2" else 1, dim=1, keepdim=True).clamp_min(1e-12)
        radius = torch.rand(len(x), 1, generator=generator, device=device) ** (1 / size)
        return self.project(x, x + (eps * radius * noise / length).view(shape).to(x))

    def pull_back(self, x: Tensor, adv: Tensor) -> Tensor:
        """Bring back into an L2 or L1 ball what nothing but the rounding of pixels has moved out.

        A sum over thousands of pixels, each rounded in float32, may exceed a small radius by more than the
        tolerance of `check`. Images farther out, or of another shape, come back as they are.

        Args:
            x: Clean images in [0, 1], shape (n, ...).
            adv: Adversarial images in [0, 1].

        Returns:
            The images, of the shape of `adv`.
        """
        if self.norm == "Linf" or adv.shape != x.shape or not len(x):
            return adv
        pixels, eps = x[0].numel(), float(self.eps)
        rounding = PIXEL_ROUNDING * (pixels if self.norm == "L1" else pixels**0.5)
        distance = self.distance(x, adv)
        out = (distance > eps * (1 + RELATIVE_TOLERANCE)) & (distance <= eps + rounding)
        if not bool(out.any()):
            return adv
        share = (max(eps - rounding, 0.0) / distance[out]).view(-1, *[1] * (x.ndim - 1))
        near = x[out].double() + share * (adv[out].double() - x[out].double())
        return adv.index_put((out,), near.clamp(0, 1).to(adv.dtype))

    def check(self, x: Tensor, adv: Tensor) -> None:
        """Refuse images that the threat model does not allow.

        Args:
            x: Clean images in [0, 1], shape (n, ...).
            adv: Adversarial images; the tolerance is 1e-6 in Linf, 1e-5 eps in L2 and L1, none for the box.

        Raises:
            OutsideBall: Unless every image has its shape, is finite, in the box, and in the ball.
        """
        if adv.shape != x.shape:
            raise OutsideBall(f"wanted images of shape {tuple(x.shape)}, got {tuple(adv.shape)}")
        if not bool(adv.isfinite().all()):
            raise OutsideBall("an adversarial image is not finite")
        if adv.numel() and (float(adv.min()) < 0 or float(adv.max()) > 1):
            raise OutsideBall(
                f"an adversarial image leaves [0, 1]: {float(adv.min()):.9g} to {float(adv.max()):.9g}"
            )
        eps = float(self.eps)
        slack = LINF_TOLERANCE if self.norm == "Linf" else RELATIVE_TOLERANCE * eps
        worst = float(self.distance(x, adv).max()) if len(x) else 0.0
        if worst > eps + slack:
            raise OutsideBall(f"an adversarial image lies {worst:.9g} from its clean one, beyond {self}")


def _shortest(eps: Fraction) -> str:
    """Return 8/255 as it is written in papers, 0.5 as a decimal, anything else as a fraction."""
    odd = eps.denominator
    for prime in (2, 5):
        while odd % prime == 0:
            odd //= prime
    decimal = f"{eps.numerator / eps.denominator:.12g}"
    if odd == 1 and Fraction(decimal) == eps:
        return decimal
    if 255 % eps.denominator == 0:
        return f"{eps.numerator * 255 // eps.denominator}/255"
    return str(eps)


def simplex_threshold(values: Tensor, total: float) -> Tensor:
    """Return for each row of `values` (n, d) the t, (n, 1), for which `(values - t).clamp_min(0)` is the
    nearest point with non-negative entries that sum to `total`, by sorting (Duchi et al., ICML 2008)."""
    import torch

    descending = values.sort(1, descending=True).values
    excess = descending.cumsum(1) - total
    rank = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=values.dtype)
    last = (descending * rank > excess).sum(1, keepdim=True).clamp_min(1)
    return excess.gather(1, last - 1) / last
