"""The verdicts on parts, for the report."""

from __future__ import annotations

from pipeline.report.category import Category
from pipeline.report.page import PartTable

_SHOWN = 50
"""Parts that are listed."""


def part_table(category: Category) -> PartTable:
    """Return the parts that are not normal, those with the most such images first."""
    parts = category.verdicts
    defective = parts[parts["class"] != 0]
    shown = defective.sort_values(["n_defective", "part"], ascending=[False, True]).head(_SHOWN)
    note = (
        f"{len(parts)} parts, {len(defective)} of them not normal: a part is normal only if all of "
        "its images are; otherwise it has the defect class with the highest probability over all "
        "its regions."
    )
    if len(shown) < len(defective):
        note += f" The first {len(shown)} are listed; merge/{category.name}/parts.parquet has all."
    rows = [
        (
            category.paths.get(row["part"], str(row["part"])),
            int(row["class"]),
            f"{row['confidence']:.2f}",
            int(row["n_defective"]),
            int(row["n_images"]),
        )
        for _, row in shown.iterrows()
    ]
    return PartTable(note, rows)
