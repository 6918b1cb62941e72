"""Reports from inside attacks that take a known number of steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..progress import StageReport, is_due, report


@dataclass
class Steps:
    """Count the steps of an attack and report them.

    images, total: how many are moved, and by how many steps in all; passes: of each image through models in
    a step.
    """

    stage: str
    images: int
    total: int
    passes: int
    done: int = 0

    def advance(self, accuracy: Tensor, count: int = 1, *, stops: bool = False) -> None:
        """Count steps as taken, and report where that is due.

        accuracy: of each image so far, (n,); stops: whether images at 0 are left alone.
        """
        self.done += count
        if is_due():
            left = int((accuracy > 0).sum()) if stops else self.images
            passes = self.images * self.passes
            robust = float(accuracy.float().mean())
            report(StageReport(self.stage, left, robust, self.done * passes, self.total * passes))
