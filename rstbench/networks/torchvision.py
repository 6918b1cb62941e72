"""Build classifiers of torchvision as random networks: `torchvision:resnet50`, for ImageNet-sized images."""

from __future__ import annotations

from torch import nn

from ..errors import BadRequest, unknown
from .network import NetworkSpec
from .traced import trace


def torchvision(spec: NetworkSpec) -> nn.Module:
    """Build the network of torchvision without its biases, its batch norm as the spec says.

    Raises BadRequest for a name torchvision lacks, a width, or a network that cannot be traced.
    """
    from torchvision import models

    name, known = spec.name.partition(":")[2], models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision network", name, known)
    if spec.width != 1:
        raise BadRequest(f"the widths of {spec.name} are fixed; width must be 1, got {spec.width:g}")
    if spec.shape[0] != 3:
        raise BadRequest(f"{spec.name} takes 3 channels, the images have {spec.shape[0]}")
    try:
        # Networks with auxiliary heads return several logits in train mode.
        auxiliary = name in ("googlenet", "inception_v3")
        options = {"aux_logits": False, "init_weights": False} if auxiliary else {}
        net = models.get_model(name, weights=None, num_classes=spec.classes, **options)
        _adapt(net, spec)
        return trace(net)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadRequest(f"{spec.name} cannot be used: {str(error).splitlines()[0]}") from error


def _adapt(net: nn.Module, spec: NetworkSpec) -> None:
    """Remove biases and put in the norm of the spec, in place."""
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            layer.register_parameter("bias", None)
        if isinstance(layer, nn.BatchNorm2d):
            channels = layer.num_features
            norm = nn.BatchNorm2d(channels, layer.eps, layer.momentum, affine=spec.norm == "affine")
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, nn.Identity() if spec.norm == "none" else norm)
