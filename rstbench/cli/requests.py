"""Turn parsed arguments into the objects that the verbs work on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadRequest
from ..evidence.trial import FAST
from ..references import DataReference, Reference
from ..threat import Threat

if TYPE_CHECKING:
    from ..attacks import AttackSpec
    from ..certificates import CertificateSpec
    from ..models.wrapper import EvalModel
    from ..progress import Progress
    from ..study.plan import Study
    from ..study.run import Options


def study_of(args: argparse.Namespace) -> tuple[Study, list[EvalModel] | None]:
    """Return what `evaluate` was given: one study, or one of models, which come loaded."""
    from ..study.plan import override
    from ..study.reading import DEFAULT_ATTACKS, read_study
    from ..study.run import study_of_models

    what = args.what or ["digits"]
    studies = [text for text in what if text.endswith(".toml") or ":" not in text]
    if not studies:
        references = [Reference.parse(text) for text in what]
        attacks, options = attacks_of(args.attack or DEFAULT_ATTACKS), options_of(args, "adhoc")
        threats, data = threats_and_data_of(args)
        return study_of_models(
            references, attacks, threats, data, args.seed or 0, options, certificates_of(args)
        )
    if len(what) > 1:
        raise BadRequest(f"one study at a time, or models only; got {' '.join(what)}")
    asked = attacks_of(args.attack or []), *threats_and_data_of(args), certificates_of(args)
    return override(read_study(what[0]), *asked), None


def attacks_of(texts: Sequence[str]) -> list[AttackSpec]:
    """Parse the texts of `--attack`."""
    from ..attacks import AttackSpec

    return [AttackSpec.parse(text) for text in texts]


def certificates_of(args: argparse.Namespace) -> list[CertificateSpec]:
    """Parse the texts of `--certify`."""
    if not args.certify:
        return []
    from ..certificates import CertificateSpec

    return [CertificateSpec.parse(text) for text in args.certify]


def threats_and_data_of(args: argparse.Namespace) -> tuple[list[Threat], DataReference | None]:
    """Parse the texts of `--threat` and of `--data`."""
    threats = [Threat.parse(text) for text in args.threat or []]
    return threats, DataReference.parse(args.data) if args.data else None


def options_of(args: argparse.Namespace, name: str) -> Options:
    """Return how to run; `name` is that of the folder below `runs` where `--out` is not given."""
    from ..evaluation.workers import pick_timeout, pick_workers
    from ..evidence.part import ALL_SHARDS, Shards
    from ..study.run import Options

    return Options(
        out=Path(args.out or f"runs/{name}").expanduser(),
        device=args.device,
        batch=getattr(args, "batch_size", "auto"),
        limit=getattr(args, "limit", 0),
        root=root_of(args),
        save_adversarials=getattr(args, "save_adversarials", False),
        download=args.download,
        workers=pick_workers(args.workers),
        crafting=getattr(args, "crafting", FAST),
        executor=args.executor,
        timeout=pick_timeout(getattr(args, "shard_timeout", None)),
        only=tuple(getattr(args, "only", None) or ()),
        shards=Shards.parse(args.shards) if getattr(args, "shards", None) else ALL_SHARDS,
    )


def root_of(args: argparse.Namespace) -> Path:
    """Return where data sets lie."""
    from ..data import data_root

    return data_root(args.data_root)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that were given, as `offered` names them."""
    from ..training.recipe import offered

    given = {name: getattr(args, name, None) for name in {**offered("draw"), **offered("train")}}
    return {name: value for name, value in given.items() if value is not None}


def progress_of(args: argparse.Namespace) -> Progress:
    """Return who shows the progress."""
    from .progress import Bars, Lines, Notes

    if args.quiet:
        return Notes()
    return Bars() if sys.stderr.isatty() else Lines()
