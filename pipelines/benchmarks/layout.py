"""What the folders of a data set mean where no table says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.benchmarks.tables import ImageFiles, masklike, path_columns, read_table

#: folders that hold somebody's split rather than classes
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}


@dataclass(frozen=True)
class ClassLayout:
    """Class folders, if there are any.

    Attributes:
        pattern: of files that do not lie directly in `<class>/`; "" where they do.
        note: what was made of the folders.
        reason: why they are no class folders; "" where they are.
    """

    pattern: str = ""
    note: str = ""
    reason: str = ""


def class_layout(files: ImageFiles) -> ClassLayout:
    """Read the folders above the images as classes: `<class>/image`, `<any one folder>/<class>/image` or `<train|test|val>/<class>/image`.

    Folders of masks are passed over. Deeper or mixed folders are not guessed at.
    """
    images = [p for p in files.paths if not masklike(p)]
    parents = sorted({p.rpartition("/")[0] for p in images})
    steps = [tuple(parent.split("/")) if parent else () for parent in parents]
    depths = {len(step) for step in steps}
    if depths == {1} and len(steps) > 1:
        return ClassLayout(note=f"{len(steps)} sub-folders taken as classes")
    if depths == {2}:
        upper = {step[0] for step in steps}
        if len(upper) == 1 and len(steps) > 1:
            return ClassLayout(f"{steps[0][0]}/{{class}}/{{file}}", f"sub-folders of `{steps[0][0]}` taken as classes")
        if {name.lower() for name in upper} <= _SPLITS and len({step[1] for step in steps}) > 1:
            return ClassLayout("{given_split}/{class}/{file}", f"given splits ({', '.join(f'`{name}`' for name in sorted(upper))}) are not used")
        return ClassLayout(
            reason=f"Two levels of folders (`{parents[0]}`): state a `pattern` such as `{{patient}}/{{class}}/{{file}}`, the label and the unit."
        )
    where = ", ".join(f"`{parent or '.'}`" for parent in parents[:3])
    return ClassLayout(reason=f"Nothing labels its {len(images)} images (in {where}): no table names them, and there are no class folders.")


def is_dataset(folder: Path, children: Sequence[Path]) -> bool:
    """Whether a folder is one data set rather than a folder of them: a table in it names images, or every sub-folder holds nothing but images."""
    files = ImageFiles.scan(folder)
    direct = [t for t in files.tables if "/" not in t]
    if any(path_columns(read_table(folder / t), files) for t in direct):
        return True
    holders = {p.split("/")[0] for p in files.paths if p.count("/") == 1 and not masklike(p)}
    deeper = any(p.count("/") > 1 for p in files.paths) or len(files.tables) > len(direct)
    return not deeper and len(children) > 1 and {c.name for c in children if not masklike(c.name)} == holders and len(holders) > 1
