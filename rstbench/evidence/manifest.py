"""Read and write the manifest of a run, `study.toml`: what was asked, and by which keys. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadFile
from ..files import write_whole
from ..limits import read_text
from ..parsing import parse_toml
from ..threat import Threat
from .fields import check_fields, check_values
from .store import as_plain
from .trial import ModelInfo

MANIFEST_FILE = "study.toml"
MOST_IMAGES = 2**31
# Types of what is read of a study and of a run; other keys may hold anything.
STUDY: Mapping[str, Any] = {
    "name": str,
    "data": str,
    "threats": list[str],
    "attacks": list[str | dict[str, str]],
    "certificates": list[str],
    "curve": dict[str, str | list[str | float]],
    "images": int,
    "draw": list[dict[str, Any]],
    "train": list[dict[str, Any]],
    "model": list[dict[str, str]],
}
RUN: Mapping[str, Any] = {
    "data": str,
    "data_digest": str,
    "device": str,
    "threads": int | str,  # 'a and b' of merged folders
    "batch": int | str,
    "crafting": str,
    "versions": dict[str, str],
    "images": int,
    "failures": list[str],
    "merged": list[str],
}
EVIDENCE: Mapping[str, Any] = {
    "groups": list[list[str]],
    "keys": list[str],
    "labels": str,
    "rows": list[dict[str, Any]],
    "cards": dict[str, dict[str, Any]],
}


@dataclass(frozen=True)
class Row:
    """Name a row of the leaderboard: a model (its digest), a threat, a seed, and the attacks and certificates
    asked of it."""

    model: str
    threat: str
    seed: int
    attacks: tuple[str, ...]
    certificates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Hold what one run asked.

    study: the resolved study; run: versions, device, threads, batch; images: how many were asked about;
    models: what tables say of each, by digest; rows: the lines of the leaderboard; groups: digests of models
    that judged one another's images; keys: all trials of this request; failures: a line each; labels: the
    true classes of the images, none in older folders.
    """

    study: Mapping[str, Any]
    run: Mapping[str, Any]
    images: int
    models: Mapping[str, ModelInfo]
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, ...], ...] = ()
    keys: tuple[str, ...] = ()
    failures: tuple[str, ...] = field(default=())
    labels: tuple[int, ...] = ()

    def save(self, root: Path) -> None:
        """Write `root/study.toml`."""
        write_whole(root / MANIFEST_FILE, self.file())

    def file(self) -> bytes:
        """Return the content of the file that `load` reads."""
        import tomli_w

        plain = {
            **self.study,
            "run": {**self.run, "images": self.images, "failures": list(self.failures)},
            "evidence": {
                "groups": [list(group) for group in self.groups],
                "keys": sorted(self.keys),
                "labels": " ".join(map(str, self.labels)),  # a line, where TOML's list takes one for each
                "rows": [as_plain(row) | {"attacks": list(row.attacks)} for row in self.rows],
                "cards": {digest: as_plain(model) for digest, model in sorted(self.models.items())},
            },
        }
        return tomli_w.dumps(_lists(plain)).encode()

    @classmethod
    def load(cls, root: Path) -> Manifest:
        """Read `root/study.toml`. Raises BadFile."""
        path = Path(root) / MANIFEST_FILE
        try:
            plain = parse_toml(read_text(path))
            run, evidence = plain.pop("run"), plain.pop("evidence")
            for values, hints in ((plain, STUDY), (run, RUN), (evidence, EVIDENCE)):
                check_values(values, hints)
            manifest = cls(
                study=plain,
                run=run,
                images=run["images"],
                models={digest: ModelInfo.of(card) for digest, card in evidence["cards"].items()},
                rows=tuple(map(_row, evidence["rows"])),
                groups=tuple(tuple(group) for group in evidence["groups"]),
                keys=tuple(evidence["keys"]),
                failures=tuple(run["failures"]),
                labels=_labels(evidence.get("labels", ""), run["images"]),
            )
            manifest.check()
            return manifest
        except FileNotFoundError:
            raise BadFile(f"no {MANIFEST_FILE} in {root}; name a folder that `evaluate` wrote") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise BadFile(
                f"{path} is not what `evaluate` writes: {reason}; delete it, and run the command that "
                f"made the folder again"
            ) from error

    def check(self) -> None:
        """Raise ValueError where it names models that it does not describe, or no number of images."""
        if not 0 <= self.images < MOST_IMAGES:
            raise ValueError(f"images are a number below {MOST_IMAGES}, got {self.images}")
        if wrong := [key for key in self.keys if not re.fullmatch(r"[\w-]{1,64}", key, re.ASCII)]:
            raise ValueError(f"a key is up to 64 letters and digits, got {wrong[0][:80]!r}")
        if "data" not in self.run:
            raise ValueError("it names no data")
        named = {row.model for row in self.rows} | {digest for group in self.groups for digest in group}
        named |= {member for model in self.models.values() for member in model.members}
        if unknown := sorted(named - self.models.keys()):
            raise ValueError(f"it says nothing of the model {unknown[0][:80]!r}")
        for row in self.rows:
            Threat.parse(row.threat)


def _row(plain: Mapping[str, Any]) -> Row:
    check_fields(Row, plain)
    lists = {key: tuple(plain.get(key, ())) for key in ("attacks", "certificates")}
    return Row(**{**plain, **lists})


def _labels(text: str, images: int) -> tuple[int, ...]:
    """Return the classes that one line names. Raises ValueError where they are not one for each image."""
    labels = tuple(map(int, text.split()))
    if labels and len(labels) != images:
        raise ValueError(f"{len(labels)} labels for {images} images")
    return labels


def _lists(value: Any) -> Any:
    """Turn tuples into the lists that TOML knows, however deep."""
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
