"""Tell which folders of a tree are splits, by their names and by the folders in and beside them.

Data sets name them in many ways: train/valid, Training/Testing, seg_train/seg_test, train2017/val2017. A name
alone is not enough, for a class may be called train or test; other folders have to agree with it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ..errors import BadFile, listed
from .tree import holds_classes, holds_images, innermost, is_hidden, scan

SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "val", "valid", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout"),
}
# Words beside a split's name that tell no split from another: training_set, x_test, val_images.
FILLERS = ("set", "data", "dataset", "image", "images", "img", "imgs", "split", "folder")
ENDS = ("", *FILLERS)
SPLIT_OF = {word + end: split for split, words in SPLIT_WORDS.items() for word in words for end in ENDS}
PART_WORDS = {"fold", "part", "split", "subset", "batch", "session", "cv"}


class SplitName(NamedTuple):
    """The parts of a folder's name: the split, '' for none, and the other words."""

    split: str
    rest: tuple[str, ...]


def split_name(name: str) -> SplitName:
    """Parse a name: `seg_test` is the test split of seg, `Training Set` the training split of ()."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    splits = {SPLIT_OF[word] for word in words if word in SPLIT_OF}
    if len(splits) != 1:
        return SplitName("", tuple(words))
    return SplitName(splits.pop(), tuple(w for w in words if w not in (*SPLIT_OF, *FILLERS, "x")))


class Siblings(NamedTuple):
    """The other splits of a data set, and the name of the given one among them."""

    name: str
    others: list[Path]


def siblings_of(folder: Path) -> Siblings:
    """Find the other splits of the data set that a folder of classes is a split of.

    They lie beside it, or beside the folder that holds nothing but it (seg_test/seg_test), or its kind of
    the same classes (test/noisy); of a link, beside the link, then beside its target.
    """
    own = scan(folder)[0]
    for path in dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder))):
        start = parent = Path(path)
        for _ in range(3):
            others, name = _splits_beside(parent), parent.name
            if others and (parent == start or _leads_to(parent, start) or _shares_classes(name, own, others)):
                relative = [Path(os.path.relpath(other)) for other in others]
                return Siblings(name, others if folder.is_absolute() else relative)
            parent = parent.parent
    return Siblings(os.path.basename(os.path.abspath(folder)), [])


def _leads_to(parent: Path, folder: Path) -> bool:
    try:
        return innermost(parent) == folder
    except BadFile:  # whatever else lies there
        return False


def _shares_classes(name: str, own: list[str], others: list[Path]) -> bool:
    """Whether a folder of this name is a split, and a training split beside it shares a class."""
    train = [path for path in others if split_name(path.name).split == "train"]
    return bool(split_name(name).split) and any(set(own) & _classes(_class_root(path, own)) for path in train)


def _neighbours(folder: Path) -> list[str]:
    """Return the other folders beside a folder, broken links too, which may be meant as one."""
    try:
        entries = sorted(os.scandir(folder.parent), key=lambda entry: entry.name)
    except OSError:
        return []
    broken = {e.name for e in entries if e.is_symlink() and not os.path.exists(e.path)}
    names = [e.name for e in entries if (e.is_dir() or e.name in broken) and not is_hidden(e.name)]
    return [name for name in names if name != folder.name]


def _splits_beside(folder: Path) -> list[Path]:
    """Return the splits of the same data set beside a folder: other splits with the same other words."""
    own_name = split_name(folder.name)
    others = {name: split_name(name) for name in _neighbours(folder)}
    splits = list[str]()
    if own_name.split:
        splits = [n for n, other in others.items() if other.split and other.rest == own_name.rest]
        splits = [n for n in splits if others[n].split != own_name.split]
    elif SplitName("train", ()) in others.values():
        # Whatever it is called, it lies beside training images; other data sets share no class with them.
        splits = [n for n, other in others.items() if other.split and not other.rest]
        own = set(scan(folder)[0])
        splits = splits if any(own & set(scan(folder.parent / name)[0]) for name in splits) else []
    elif set(own_name.rest) & PART_WORDS:
        splits = [n for n, other in others.items() if other == own_name]
    return [folder.parent / name for name in splits if scan(folder.parent / name)[0]]


def class_labels(folder: Path, own: list[str], siblings: Siblings) -> tuple[list[str], Path | None]:
    """Return (the classes by label, the folder they were taken from where it is another one).

    They are those of the training folder; without one, those of another split, or of folders beside this one,
    that has more of them. Raises BadFile where neither has all classes of the other.
    """
    if split_name(siblings.name).split == "train":
        return own, None
    train = [path for path in siblings.others if split_name(path.name).split == "train"]
    # Of several, those of the same number: fold1_train for fold1_test.
    digits = re.findall(r"\d+", siblings.name)
    train = [path for path in train if re.findall(r"\d+", path.name) == digits] or train
    roots = [_class_root(other, own) for other in train or siblings.others]
    # Unlabelled splits have files alone, or all in one folder (test/unknown).
    sources = {
        path: names
        for path, names in ((root, _classes(root)) for root in roots)
        if names and (train or len(names) > 1 or names & set(own))
    }
    if not sources:
        return _classes_beside(folder, own)
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
        if unknown := sorted(names - sources[most]):
            raise BadFile(
                f"{path} has the class {unknown[0]}, {most} has not, so their labels would not agree; "
                + _advice(path, sources[most], siblings.others)
            )
    return sorted(sources[most]), None if most == folder else most


def _advice(folder: Path, known: set[str], others: list[Path]) -> str:
    """Tell what helps a split with unknown classes: another one, or other names."""
    fit = [path for path in others if split_name(path.name).split != "train" and _classes(path)]
    fit = [path for path in fit if path != folder and _classes(path) <= known]
    return f"imagefolder:{fit[0]} has none such" if fit else "rename it, or add it there"


def _classes(path: Path) -> set[str]:
    """Return the folders in it, whatever lies beside them, for a stray image would else shift the labels."""
    return set(scan(path)[0])


def _class_root(path: Path, own: list[str]) -> Path:
    """Return the folder itself, or the one in it that holds the classes: train, train/images."""
    return path if set(own) <= _classes(path) else innermost(path)


def _classes_beside(folder: Path, own: list[str]) -> tuple[list[str], Path | None]:
    """Return the class folders beside a test folder, where they have all its classes: cat, dog, test/dog."""
    if not split_name(folder.name).split:
        return own, None
    top = Path(os.path.abspath(folder)).parent
    names = [name for name in _neighbours(top / folder.name) if not split_name(name).split]
    if set(own) < set(names):
        names = [name for name in names if holds_images(top / name)]
    return (names, top) if set(own) < set(names) else (own, None)


def refuse_splits(folder: Path, own: list[str]) -> None:
    """Raise BadFile where the folders that would be the classes are splits."""
    marks = {name: split_name(name) for name in own}
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
        # Splits other than the training one are for evaluation.
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


def refuse_inner(folder: Path, own: list[str]) -> None:
    """Raise BadFile where class folders hold splits, which would be evaluated together."""
    for name in own:
        inner = [
            part
            for part in scan(folder / name)[0]
            if split_name(part).split and holds_images(folder / name / part)
        ]
        if len({split_name(part).split for part in inner}) > 1:
            wanted = (
                f"name imagefolder:{folder / name}" if len(own) == 1 else "image trees read DIR/test/<class>"
            )
            raise BadFile(
                f"the class folder {folder / name} has splits in it ({listed(inner)}), which would be "
                f"measured together; {wanted}"
            )


def shared_parts(folder: Path, own: list[str]) -> list[str]:
    """Return the names of folders that several class folders have in them.

    Then these may be parts, and those the classes (fold1/cat, fold2/cat), or sessions of a class (cat/day,
    dog/day).
    """
    roots = {name: innermost(folder / name) for name in own}
    contents = {name: scan(root) for name, root in roots.items()}
    counts = Counter[str]()
    for name, (inner, loose) in contents.items():
        if len(inner) > 1 and not loose:
            counts.update(part for part in inner if holds_images(roots[name] / part))
    shared = sorted(part for part, count in counts.items() if count > 1)
    # Images that lie in a class folder itself speak for it.
    return shared if len(shared) > any(loose for _, loose in contents.values()) else []
