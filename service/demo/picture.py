"""The report as a picture: accuracy with its spread, and how far each confidence can be believed."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from service.demo.metrics import BINS
from service.demo.report import Report

TEACHER, POOL = "#9aa5b1", "#1f3a5f"
BY_LABELS, BY_ONE, BY_POOL = "#d9822b", "#5b8db8", "#1b998b"
FEWEST_ROWS = 5  # in a bin that is drawn: the accuracy of one or two rows says nothing
INK, FAINT = "#25313c", "#d5dae0"


def write_png(report: Report, path: Path) -> None:
    """Draw the report, without a display and without touching the process's plotting state."""
    figure = Figure(figsize=(12.5, 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    bars, diagram = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
    _accuracy(bars, report)
    _reliability(diagram, report)
    figure.suptitle(
        f"soft-targets demo on {report.dataset}: {len(report.teachers)} teachers, one student, "
        f"{report.setting.student_rows:,} rows without labels",
        x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _accuracy(axes: Axes, report: Report) -> None:
    members = [*report.teachers, report.pool]
    names = [f"teacher {member.name}" for member in report.teachers]
    names += ["pool of the teachers", *(f"student by {taught.name}" for taught in report.taught)]
    spreads = [taught.spread("accuracy") for taught in report.taught]
    heights = [100 * member.scores.accuracy for member in members] + [100 * spread.mean for spread in spreads]
    errors = [0.0] * len(members) + [100 * spread.deviation for spread in spreads]
    colours = [TEACHER] * len(report.teachers) + [POOL, BY_LABELS]
    colours += [BY_ONE] * len(report.alone) + [BY_POOL]
    places = [float(index) + 0.5 * (index >= len(members)) for index in range(len(names))]
    axes.barh(places, heights, color=colours, height=0.66)
    students = [*[None for _ in members], *report.taught]
    for place, height, error, taught in zip(places, heights, errors, students, strict=True):
        label = f"{height:.1f}"
        if taught is not None:
            label += f" ± {error:.1f}"
            axes.errorbar(height, place, xerr=error, color=INK, capsize=4, linewidth=1.4)
            values = [100 * scores.accuracy for scores in taught.scores]
            axes.plot(values, [place] * len(values), "o", color="white", markersize=4.5, markeredgecolor=INK)
        axes.text(height + error + 0.4, place, label, va="center", fontsize=9.5, color=INK)
    lowest = min(height - error for height, error in zip(heights, errors, strict=True))
    axes.set_xlim(max(0.0, 5 * ((lowest - 8) // 5)), 104)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel(
        f"accuracy on {report.test_rows:,} test rows, % (students: mean, deviation and every seed)"
    )
    axes.set_title("Accuracy (the axis does not begin at zero)", loc="left", fontsize=11, color=INK)
    _plain(axes)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)


def _reliability(axes: Axes, report: Report) -> None:
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=2, label="as sure as right")
    colours = (POOL, BY_LABELS, BY_ONE, BY_POOL)
    for (name, diagram), colour in zip(report.reliability.items(), colours, strict=True):
        held = diagram.rows >= FEWEST_ROWS
        sizes = 12 + 220 * diagram.rows[held] / diagram.rows.sum()
        axes.plot(diagram.confidence[held], diagram.accuracy[held], color=colour, linewidth=1.2, alpha=0.6)
        axes.scatter(
            diagram.confidence[held], diagram.accuracy[held], s=sizes, color=colour, alpha=0.85, label=name
        )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
    axes.set_xlabel(f"confidence ({BINS} bins of {FEWEST_ROWS} rows and more; area: rows)")
    axes.set_ylabel("accuracy")
    axes.set_title(
        "Reliability (above the line: right more often than sure)", loc="left", fontsize=11, color=INK
    )
    legend = axes.legend(frameon=False, fontsize=9, loc="upper left")
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([40.0])
    _plain(axes)
    axes.grid(color=FAINT, linewidth=0.6, alpha=0.7)


def _plain(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
