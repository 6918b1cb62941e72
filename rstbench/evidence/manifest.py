"""Read and write the manifest of a run, `study.toml`: what was asked, and by which keys. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadFile
from ..files import write_whole
from ..limits import read_text
from ..parsing import parse_toml
from .store import as_plain
from .trial import ModelInfo

MANIFEST_FILE = "study.toml"


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
            return cls(
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
        except FileNotFoundError:
            raise BadFile(f"no {MANIFEST_FILE} in {root}; name a folder that `evaluate` wrote") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise BadFile(f"{path} is not what `evaluate` writes: {reason}") from error


def _row(plain: Mapping[str, Any]) -> Row:
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
