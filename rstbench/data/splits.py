"""Which folders of a tree are splits: told by their names, and by what lies in them and beside them.

Data sets name them in many ways: train/valid, Training/Testing, seg_train/seg_test, train2017/val2017. A name
alone tells nothing, for a class may be called train or test; it counts where folders agree with it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ..errors import BadFile, listed
from .tree import holds_classes, holds_images, innermost, is_hidden, look

WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "val", "valid", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout"),
}
# What is said beside it and tells no split from another: training_set, x_test, val_images.
THINGS = ("set", "data", "dataset", "image", "images", "img", "imgs", "split", "folder")
SPLIT_OF = {word + end: split for split, words in WORDS.items() for word in words for end in ("", *THINGS)}
PARTS = {"fold", "part", "split", "subset", "batch", "session", "cv"}


class Named(NamedTuple):
    """What a folder's name says: the split, '' for none, and the other words."""

    split: str
    rest: tuple[str, ...]


def named(name: str) -> Named:
    """`seg_test` is the test split of seg, `Training Set` and `train2017` the training split of ()."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    splits = {SPLIT_OF[word] for word in words if word in SPLIT_OF}
    if len(splits) != 1:
        return Named("", tuple(words))
    return Named(splits.pop(), tuple(w for w in words if w not in SPLIT_OF and w not in (*THINGS, "x")))


class Splits(NamedTuple):
    """The other splits of a data set, and the name that one of them has among them."""

    name: str
    others: list[Path]


def splits(folder: Path) -> Splits:
    """Those of the data set that a folder of classes is a split of.

    They lie beside it, or beside the folder that holds nothing but it (seg_test/seg_test), or its kind of
    the same classes (test/noisy); a link is looked at where it is, then where it leads.
    """
    own = look(folder)[0]
    for path in dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder))):
        place = above = Path(path)
        for _ in range(3):
            found = _beside(above)
            if found and (above == place or _leads_to(above, place) or _learnt(above.name, own, found)):
                shown = found if folder.is_absolute() else [Path(os.path.relpath(path)) for path in found]
                return Splits(above.name, shown)
            above = above.parent
    return Splits(os.path.basename(os.path.abspath(folder)), [])


def _leads_to(above: Path, place: Path) -> bool:
    try:
        return innermost(above) == place
    except BadFile:  # whatever else lies there
        return False


def _learnt(name: str, own: list[str], found: list[Path]) -> bool:
    """Whether a folder of this name is a split, and the training images beside it share a class."""
    train = [path for path in found if named(path.name).split == "train"]
    return bool(named(name).split) and any(set(own) & _classes(_with_classes(path, own)) for path in train)


def _neighbours(folder: Path) -> list[str]:
    """The other folders in the folder above, links that lead nowhere too, which may be meant as one."""
    try:
        entries = sorted(os.scandir(folder.parent), key=lambda entry: entry.name)
    except OSError:
        return []
    broken = {e.name for e in entries if e.is_symlink() and not os.path.exists(e.path)}
    names = [e.name for e in entries if (e.is_dir() or e.name in broken) and not is_hidden(e.name)]
    return [name for name in names if name != folder.name]


def _beside(folder: Path) -> list[Path]:
    """Splits of the same data set in the folder above: of another name, with the same other words."""
    mine = named(folder.name)
    others = {name: named(name) for name in _neighbours(folder)}
    if mine.split:
        kept = [n for n, other in others.items() if other.split and other.rest == mine.rest]
        kept = [n for n in kept if others[n].split != mine.split]
    elif Named("train", ()) in others.values():
        # Whatever it is called, it lies beside training images; other data sets share no class with them.
        kept = [n for n, other in others.items() if other.split and not other.rest]
        own = set(look(folder)[0])
        kept = kept if any(own & set(look(folder.parent / name)[0]) for name in kept) else []
    elif set(mine.rest) & PARTS:
        kept = [n for n, other in others.items() if other == mine]
    else:
        kept = []
    return [folder.parent / name for name in kept if look(folder.parent / name)[0]]


def numbering(folder: Path, own: list[str], among: Splits) -> tuple[list[str], Path | None]:
    """(the classes by label, the folder they were taken from where it is another one).

    The training folder's classes where there is one; without it, those of another split, or of folders
    beside this one, that has more of them. Raises BadFile where neither has all classes of the other.
    """
    if named(among.name).split == "train":
        return own, None
    train = [path for path in among.others if named(path.name).split == "train"]
    # Of several, those of the same number: fold1_train for fold1_test.
    digits = re.findall(r"\d+", among.name)
    train = [path for path in train if re.findall(r"\d+", path.name) == digits] or train
    sources = {
        path: _classes(path) for path in (_with_classes(other, own) for other in train or among.others)
    }
    # What is not labelled has files alone, or all in one folder (test/unknown).
    apt = {path for path, names in sources.items() if names and (train or len(names) > 1 or names & set(own))}
    sources = {path: names for path, names in sources.items() if path in apt}
    if not sources:
        return _numbered_beside(folder, own)
    if not train:
        sources[folder] = set(own)
    most = max(sources, key=lambda path: len(sources[path]))
    for path, names in sources.items():
        if train and names != sources[most]:
            odd = min(sources[most] ^ names)
            raise BadFile(
                f"{path} and {most} differ in the class {odd}, and labels go by one; rename the other"
            )
    for path, names in {**sources, folder: set(own)}.items():
        if strange := sorted(names - sources[most]):
            raise BadFile(
                f"{path} has the class {strange[0]}, {most} has not, so their labels would not agree; "
                + _instead(path, sources[most], among.others)
            )
    return sorted(sources[most]), None if most == folder else most


def _instead(folder: Path, known: set[str], others: list[Path]) -> str:
    """What helps a split with classes that are not known: another one, or other names."""
    fit = [path for path in others if named(path.name).split != "train" and _classes(path)]
    fit = [path for path in fit if path != folder and _classes(path) <= known]
    return f"imagefolder:{fit[0]} has none such" if fit else "rename it, or add it there"


def _classes(path: Path) -> set[str]:
    """Its folders, whatever lies beside them, for a stray image would else shift the labels."""
    return set(look(path)[0])


def _with_classes(path: Path, own: list[str]) -> Path:
    """The folder itself, or the one in it that holds the classes: train, train/images."""
    return path if set(own) <= _classes(path) else innermost(path)


def _numbered_beside(folder: Path, own: list[str]) -> tuple[list[str], Path | None]:
    """Class folders beside a test folder, where they have all its classes: cat, dog, test/dog."""
    if not named(folder.name).split:
        return own, None
    top = Path(os.path.abspath(folder)).parent
    names = [name for name in _neighbours(top / folder.name) if not named(name).split]
    if set(own) < set(names):
        names = [name for name in names if holds_images(top / name)]
    return (names, top) if set(own) < set(names) else (own, None)


def refuse_splits(folder: Path, own: list[str]) -> None:
    """Raises BadFile where the folders that would be the classes are splits."""
    marks = {name: named(name) for name in own}
    pairs = [
        name
        for name, mark in marks.items()
        if mark.split
        and (
            not mark.rest
            or any(o.rest == mark.rest and o.split not in ("", mark.split) for o in marks.values())
        )
    ]
    full = [name for name in pairs if holds_classes(folder / name)]
    if full:
        # What is not for learning is what to measure on.
        wanted = next((name for name in full if marks[name].split != "train"), full[0])
        raise BadFile(
            f"{folder} has no class folders: {wanted} is no class but a split; write "
            f"imagefolder:{innermost(folder / wanted)} for its images, or name the test folder test"
        )
    if len(pairs) == len(own) > 1 and len({marks[name].split for name in pairs}) > 1:
        raise BadFile(
            f"no class folders in {folder}: {listed(pairs)} are splits, and have no folders themselves; "
            f"image trees read {folder}/test/<class>/*.png"
        )


def refuse_inner_splits(folder: Path, own: list[str]) -> None:
    """Raises BadFile where class folders hold splits, which would be measured together."""
    for name in own:
        inner = [
            part
            for part in look(folder / name)[0]
            if named(part).split and holds_images(folder / name / part)
        ]
        if len({named(part).split for part in inner}) > 1:
            wanted = (
                f"name imagefolder:{folder / name}" if len(own) == 1 else "image trees read DIR/test/<class>"
            )
            raise BadFile(
                f"the class folder {folder / name} has splits in it ({listed(inner)}), which would be "
                f"measured together; {wanted}"
            )


def shared_parts(folder: Path, own: list[str]) -> list[str]:
    """Names of folders that several class folders have in them: then these may be parts, and those the
    classes (fold1/cat, fold2/cat), or sessions of a class (cat/day, dog/day)."""
    places = {name: innermost(folder / name) for name in own}
    seen = {name: look(place) for name, place in places.items()}
    counts = Counter[str]()
    for name, (inner, loose) in seen.items():
        if len(inner) > 1 and not loose:
            counts.update(part for part in inner if holds_images(places[name] / part))
    shared = sorted(part for part, count in counts.items() if count > 1)
    # Images that lie in a class folder itself speak for it.
    return shared if len(shared) > any(loose for _, loose in seen.values()) else []
