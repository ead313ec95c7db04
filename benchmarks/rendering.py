"""Tables and pictures of what speed.py has measured."""

from collections.abc import Callable, Sequence
from pathlib import Path


def flatten(row: dict) -> dict:
    """Nested fields as `"seconds, ours"`."""
    flat = {}
    for name, value in row.items():
        inner = value if isinstance(value, dict) else {None: value}
        flat |= {name if key is None else f"{name}, {key}": one for key, one in inner.items()}
    return flat


def render(record: dict, name: str, sections: dict[str, Callable]) -> str:
    """The results as Markdown, a table a section; `name` is that of the file, and `sections` make the rows."""
    machine = ", ".join(f"{name} {value}" for name, value in record["machine"].items())
    lines = ["# Speed", "", f"{machine}.", "", "```bash", record["command"], "```"]
    for section in (name for name in sections if name in record["results"]):
        rows = record["results"][section]
        about = " ".join(sections[section].__doc__.split())
        names = list(dict.fromkeys(name for row in rows for name in flatten(row)))
        lines += ["", f"## {section.replace('_', ' ').capitalize()}", "", about, ""]
        lines += [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        for row in map(flatten, rows):
            lines.append(f"| {' | '.join('' if row.get(name) is None else str(row[name]) for name in names)} |")
        if section == "growth":
            lines += ["", f"![time and memory of a step against sizes]({name}_growth.png)"]
    if "earlier" in record:
        lines += ["", *beside_earlier(**record["earlier"])]
    return "\n".join(lines) + "\n"


def beside_earlier(commit: str, about: str, command: str, rows: list[dict], notes: Sequence[str] = ()) -> list[str]:
    """An earlier version and this one, side by side, with paragraphs of notes below."""
    lines = [f"## {commit} and now, one core each, side by side", "", about, "", "```bash", command, "```", ""]
    lines += [f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
    lines += [f"| {' | '.join(map(str, row.values()))} |" for row in rows]
    return lines + [line for note in notes for line in ("", note)]


def plot(record: dict, file: Path) -> None:
    """Time of a training step and of an evaluation over the floor's, naive and ours, as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [*record["results"].get("training", []), *record["results"].get("evaluation", [])]
    rows = [row for row in rows if {"floor", "naive"} <= row["seconds"].keys()][::-1]
    if not rows:
        return
    figure, axes = pyplot.subplots(figsize=(8, 0.9 + 0.42 * len(rows)), layout="constrained")
    for place, (step, color) in enumerate((("ours", "tab:blue"), ("naive", "tab:gray"))):
        ratios = [row["ours ÷ floor"] * (row["naive ÷ ours"] if step == "naive" else 1) for row in rows]
        bars = axes.barh([at + 0.4 * place - 0.2 for at in range(len(rows))], ratios, 0.38, color=color, label=step)
        axes.bar_label(bars, [f" {ratio:.2f}" for ratio in ratios], fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(
        range(len(rows)), [f"{row.get('what', row['backbone'])}, {row['data']}" for row in rows], fontsize=8
    )
    axes.set_xscale("log")
    ticks = [0.3, 0.5, 1, 2, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.25, 2 * max(row["ours ÷ floor"] * row["naive ÷ ours"] for row in rows))
    axes.set_xlabel("time ÷ floor (a bare pass over the distinct items; one matrix product)")
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def plot_growth(record: dict, file: Path) -> None:
    """Time and memory of our step against each of the sizes that it is measured along, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = {}
    for row in record["results"].get("growth", []):
        chunk_size = row.get("gradient_caching_chunk_size")
        label = "plain" if chunk_size is None else f"gradient caching, {row['loss_type']}"
        curves.setdefault(row["along"], {}).setdefault(label, []).append(row)
    if not curves:
        return
    limits = {
        field: (0.7 * min(values), 1.4 * max(values))
        for field in ("seconds", "peak MB")
        for values in [[row[field] for row in record["results"]["growth"]]]
    }
    figure, axes = pyplot.subplots(2, len(curves), figsize=(3.1 * len(curves), 5), layout="constrained", sharex="col")
    for column, (along, lines) in enumerate(curves.items()):
        for field, panel in zip(("seconds", "peak MB"), axes.T[column], strict=True):
            for label, rows in lines.items():
                panel.plot([row["size"] for row in rows], [row[field] for row in rows], marker="o", label=label)
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_ylim(*limits[field])
            sizes = sorted({row["size"] for rows in lines.values() for row in rows})
            panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
            ticks = [one * 10**power for power in range(-4, 7) for one in (1, 2, 5)]
            ticks = [tick for tick in ticks if limits[field][0] <= tick <= limits[field][1]]
            panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
        axes[1, column].set_xlabel(along)
        if len(lines) > 1:
            axes[0, column].legend(fontsize=7, loc="lower right")  # where no point is
    axes[0, 0].set_ylabel("seconds a step")
    axes[1, 0].set_ylabel("peak MB")
    figure.savefig(file, dpi=120)
