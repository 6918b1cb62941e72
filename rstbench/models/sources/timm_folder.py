"""Build timm's repositories (`config.json` and weights) with timm's own builder, fetching nothing."""

from __future__ import annotations

import dataclasses
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BadFile, BadRequest, listed, unknown
from ...flags import CHANNELS_ADAPTED
from ...networks.normalise import normalisation_layer
from ..checkpoints.layer_order import is_counter, without_common_prefix
from .input_shape import RGB

# Arguments of timm's `create_model` that would read or fetch other files.
ELSEWHERE = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")
EXAMPLE_STATISTICS = '"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]'


@dataclasses.dataclass(frozen=True)
class TimmRepository:
    """A `config.json` of timm.

    architecture: the network's name in timm; settings: its `pretrained_cfg`; arguments: its `model_args`;
    pooling: its `global_pool`, '' where there is none.
    """

    architecture: str
    settings: Mapping[str, Any]
    arguments: Mapping[str, Any]
    pooling: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any], what: str) -> TimmRepository:
        """Read a configuration as timm's `load_model_config_from_hf` does. Raises BadFile.

        A file of the old form, without `pretrained_cfg`, is the settings itself.
        """
        import timm

        stored = config.get("pretrained_cfg", dict(config))
        name, arguments = config["architecture"], config.get("model_args") or {}
        if not isinstance(stored, dict) or not isinstance(arguments, dict) or not isinstance(name, str):
            kind = type(stored).__name__
            raise BadFile(f"{what}: config.json is no configuration of timm: {name!r}, {kind}")
        # Other names, such as hf-hub:OWNER/REPO, would be fetched.
        if not re.fullmatch(r"\w+(\.\w+)?", name) or not timm.is_model(name):
            raise unknown(f"timm network (of {what}'s config.json)", name, timm.list_models())
        if refused := [key for key in ELSEWHERE if key in arguments]:
            raise BadFile(f"{what}: model_args of config.json may not hold {', '.join(refused)}")
        known = {field.name for field in dataclasses.fields(timm.models.PretrainedCfg)} - {*SOURCES}
        settings = {key: value for key, value in stored.items() if key in known}
        if "num_classes" in config:
            settings["num_classes"] = config["num_classes"]
        _check_numbers(settings, what)
        pooling = config.get("global_pool")
        return cls(name, settings, arguments, pooling if isinstance(pooling, str) else "")

    @property
    def channels(self) -> int:
        """The number of channels that the weights are for."""
        size = self.settings.get("input_size", (RGB,))
        return int(self.arguments.get("in_chans", size[0]))

    def normalisation(self, what: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return (mean, std) of each channel, for other channels than the file's their averages.

        Raises BadFile where they are missing or are not of pixels in [0, 1].
        """
        sides: list[tuple[float, ...]] = []
        for key in ("mean", "std"):
            side = self.settings.get(key)
            if side is None:
                raise BadFile(
                    f"{what}: config.json has no {key}, so how its images were normalised is not known; "
                    f"write it there, such as {EXAMPLE_STATISTICS} (what timm takes where nothing is said)"
                )
            numbers = [side] if isinstance(side, int | float) else side
            if not isinstance(numbers, list) or not all(isinstance(n, int | float) for n in numbers):
                raise BadFile(f"{what}: {key} in config.json is a list of numbers, got {side!r}")
            if len(numbers) not in (1, self.channels):
                raise BadFile(
                    f"{what}: {key} in config.json has {len(numbers)} numbers, the network {self.channels} "
                    f"channels; write one a channel"
                )
            mean = sum(numbers) / len(numbers) if numbers else 0.0
            sides.append(tuple(map(float, numbers)) if len(numbers) == channels else (mean,) * channels)
        if not all(0 <= value <= 1 for value in sides[0]) or not all(value > 0 for value in sides[1]):
            raise BadFile(
                f"{what}: mean and std in config.json are of pixels in [0, 1], got "
                f"{self.settings['mean']} and {self.settings['std']}"
            )
        return sides[0], sides[1]

    def network(
        self, state: Mapping[str, Tensor], what: str, in_chans: int = 0
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """Build timm's network with these weights behind its normalisation; return (module, flags).

        in_chans: channels of an image, 0 for the file's. A prefix of all names (`module.`) is removed where
        timm does not know it. Raises BadFile where timm would leave a part at random, or not use a part of
        the file.
        """
        while True:
            try:
                return self._network(state, what, in_chans)
            except BadFile:
                # Counters of averaged weights have no prefix.
                state = {name: value for name, value in state.items() if not is_counter(name) or "." in name}
                if not (state := without_common_prefix(state)):
                    raise

    def _network(
        self, state: Mapping[str, Tensor], what: str, in_chans: int
    ) -> tuple[nn.Module, tuple[str, ...]]:
        import timm

        channels = in_chans or self.channels
        if channels != self.channels and self.channels != RGB:
            raise BadRequest(
                f"{what} is for {self.channels} channels; only weights for 3 can be carried over to others"
            )
        first = normalisation_layer(*self.normalisation(what, channels))
        settings = {**self.settings, "state_dict": dict(state)}
        if channels == self.channels and channels not in (1, RGB):
            settings["first_conv"] = None  # timm would carry over weights that fit as they are
        arguments = {**self.arguments, **({"in_chans": in_chans} if in_chans else {})}
        try:
            with torch.random.fork_rng(devices=[]), _captured_log() as records:
                torch.manual_seed(0)
                net: Any = timm.create_model(
                    self.architecture, pretrained=True, pretrained_cfg=settings, **arguments
                )
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
            text = " ".join(str(error).split())[:200]
            raise BadFile(
                f"{what}: timm cannot build {self.architecture} from it: {text or repr(error)}"
            ) from None
        _refuse_mismatch([record.getMessage() for record in records], what)
        self._refuse_other_pooling(net, what)
        net.pretrained_cfg = {key: value for key, value in net.pretrained_cfg.items() if key != "state_dict"}
        net.default_cfg = net.pretrained_cfg
        module = nn.Sequential(first, net).requires_grad_(False).eval()
        return module, () if channels == self.channels else (CHANNELS_ADAPTED.name,)

    def _refuse_other_pooling(self, net: nn.Module, what: str) -> None:
        """Raise BadFile for another pooling than in config.json, where timm writes it but reads none."""
        built = getattr(net, "global_pool", None)
        built = built if isinstance(built, str) else getattr(built, "pool_type", None)
        if self.pooling and isinstance(built, str) and built != self.pooling:
            raise BadFile(
                f"{what}: config.json says global_pool {self.pooling!r}, timm builds {built!r} from it; "
                f'write "model_args": {{"global_pool": "{self.pooling}"}} beside "architecture"'
            )


def _check_numbers(settings: Mapping[str, Any], what: str) -> None:
    classes, size = settings.get("num_classes", 1), settings.get("input_size", [RGB, 1, 1])
    if type(classes) is not int or classes < 1:
        raise BadFile(f"{what}: num_classes in config.json is a whole number from 1, got {classes!r}")
    if not isinstance(size, list) or len(size) != 3 or not all(type(n) is int and n > 0 for n in size):
        raise BadFile(f"{what}: input_size in config.json is [channels, height, width], got {size!r}")


def _refuse_mismatch(messages: list[str], what: str) -> None:
    """Raise BadFile for missing and unexpected keys, which timm only logs."""
    for start, problem in (("Missing keys (", "lacks"), ("Unexpected keys (", "also has")):
        for message in messages:
            if message.startswith(start):
                names = message.removeprefix(start).partition(")")[0].split(", ")
                raise BadFile(
                    f"{what}: the file {problem} {listed(names)}; timm would go on, with another "
                    f"network (do num_classes and input_size fit?)"
                )
    if lost := [message for message in messages if message.startswith("Unable to convert")]:
        raise BadFile(f"{what}: {lost[0]}")


@contextmanager
def _captured_log() -> Iterator[list[logging.LogRecord]]:
    """Collect what timm's builder logs meanwhile, and show it nowhere else."""
    logger, collector = logging.getLogger("timm.models._builder"), BufferingHandler(sys.maxsize)
    before = (logger.level, logger.propagate, logger.disabled)
    logger.addHandler(collector)
    logger.setLevel(logging.INFO)
    logger.propagate = logger.disabled = False
    try:
        yield collector.buffer
    finally:
        logger.removeHandler(collector)
        logger.setLevel(before[0])
        logger.propagate, logger.disabled = before[1:]
