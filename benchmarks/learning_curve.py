"""Draws the learning curves of a benchmark's folder: NDCG@10 by the number of known users, and of cold items apart.

    transrec benchmark benchmarks/suites/beauty_curve.yaml --data_dir DATA --output_dir outputs/curve
    python benchmarks/learning_curve.py outputs/curve benchmarks/results/beauty_curve.png

Bars are 95 % intervals over users.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from modeling_transrec.benchmark.execution import RESULTS, read_lines
from modeling_transrec.benchmark.report import Row, read_rows
from modeling_transrec.benchmark.statistics import Estimate, estimate


matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  # after the choice of what draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the benchmark's --output_dir")
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    lines, found = read_lines(args.folder / RESULTS), {}
    for known in sorted({line["known_users"] for line in lines if line["known_users"] is not None}):
        found[known] = read_rows((line for line in lines if line["known_users"] == known), args.folder)
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.5), sharex=True)
    for panel, group, title in zip(
        panels, (None, "target 0"), ("all users", "users whose item no known user has"), strict=True
    ):
        for number, name in enumerate(dict.fromkeys(row.name for rows in found.values() for row in rows)):
            points = {
                known: _estimate(row, group)
                for known, rows in found.items()
                for row in rows
                if row.name == name and (group is None or group in row.groups)
            }
            means = np.array([one.mean for one in points.values()])
            spans = np.abs([[one.low, one.high] for one in points.values()] - means[:, None]).T
            marker = "osDv^<>PX*"[number % 10]
            panel.errorbar([*points], means, spans, marker=marker, markersize=4, capsize=2, linewidth=1, label=name)
        panel.set(xscale="log", xlabel="known users", ylabel="NDCG@10", title=title)
        panel.set_xticks([*found], [f"{known:,}" for known in found])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="lower center", ncols=4)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(args.picture, dpi=110)


def _estimate(row: Row, group: str | None) -> Estimate:
    return estimate(row.values["ndcg"] if group is None else row.of_group(group))


if __name__ == "__main__":
    main()
