"""The wheel holds all that runs outside a clone, and nothing else; the source distribution no evidence."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BESIDE = ["README.md", "CHANGELOG.md", "LICENSE", "MANIFEST.in", "pyproject.toml", "setup.cfg", "tox.ini"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The files of the clone that a build reads, where it may leave what it likes."""
    folder = tmp_path_factory.mktemp("build")
    ignored = shutil.ignore_patterns("__pycache__", "results", "*.safetensors")
    for name in ("rstbench", "docs", "tests", "leaderboards/digits"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in BESIDE:
        shutil.copy(ROOT / name, folder)
    return folder


def test_the_wheel_holds_the_package_with_its_data(source, tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = [path for path in (source / "rstbench").rglob("*") if path.is_file()]
    assert names == {str(path.relative_to(source)) for path in package}
    kinds = {Path(name).suffix for name in names}
    assert {".py", ".typed", ".csv", ".toml", ".html", ".css", ".js"} <= kinds


def test_the_source_distribution_holds_tests_and_guides_but_no_evidence(source, tmp_path):
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"docs/tutorial.md", "tests/conftest.py", "tests/whole/small.toml", "CHANGELOG.md"} <= names
    assert not any(name.startswith("leaderboards") for name in names)
