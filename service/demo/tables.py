"""The report as tables for a terminal."""

from rich import box
from rich.console import Console
from rich.table import Table

from service.demo.metrics import Scores
from service.demo.report import Member, Report, Traffic

KIB = 1024


def show(report: Report, console: Console) -> None:
    """Print the whole report."""
    console.print()
    console.print(_members(report))
    console.print(_students(report))
    console.print(_traffic(report))
    console.print(f"[dim]{report.caution}[/dim]", highlight=False)


def _table(title: str, *columns: str) -> Table:
    # Narrow padding, so that the widest table fits 80 columns.
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=True, justify="right" if index else "left")
    return table


def _members(report: Report) -> Table:
    table = _table(
        f"Teachers and their pool, as the server answers at T = 1 ({report.test_rows:,} test rows)",
        "", "rows", "own T", "numbers", "size", "accuracy", "NLL", "ECE",
    )  # fmt: skip
    for member in report.teachers:
        table.add_row(*_member(member))
    table.add_section()
    table.add_row(*_member(report.pool), style="bold")
    return table


def _member(member: Member) -> list[str]:
    return [
        f"{member.name} [dim]{member.kind}[/dim]",
        f"{member.trained_rows:,}",
        "" if member.temperature is None else f"{member.temperature:.2f}",
        f"{member.numbers:,}",
        size(member.size_bytes),
        f"{100 * member.scores.accuracy:.1f} %",
        f"{member.scores.nll:.3f}",
        f"{member.scores.ece:.3f}",
    ]


def _students(report: Report) -> Table:
    table = _table(
        f"One student, taught in {len(report.taught)} ways, {len(report.seeds)} seed(s) each\n"
        f"({report.student_numbers:,} numbers, {size(report.student_bytes)}: "
        f"{report.pool.numbers / report.student_numbers:.0f} times fewer than the ensemble)",
        "taught by", "accuracy", "NLL", "ECE",
    )  # fmt: skip
    for taught in report.taught:
        own = taught is report.from_pool
        accuracy, nll, ece = (taught.spread(figure) for figure in Scores._fields)
        table.add_row(
            taught.name,
            f"{100 * accuracy.mean:.1f} ± {100 * accuracy.deviation:.1f} %",
            f"{nll.mean:.3f} ± {nll.deviation:.3f}",
            f"{ece.mean:.3f} ± {ece.deviation:.3f}",
            style="bold" if own else "",
        )
    return table


def _traffic(report: Report) -> Table:
    sent, received = (
        size(sum(getattr(epoch, field) for traffic in report.traffic for epoch in traffic.epochs))
        for field in ("sent_bytes", "received_bytes")
    )
    table = _table(
        f"What the students asked of the server, and cache hits by epoch\n(sent {sent}, received {received})",
        "taught by", "seed", "rows", "rows/s", "hits: 1st", "2nd", "later", "waited",
    )  # fmt: skip
    for before, traffic in zip([None, *report.traffic], report.traffic, strict=False):
        table.add_row(
            traffic.name if before is None or before.name != traffic.name else "",
            str(traffic.seed),
            f"{traffic.rows:,}",
            f"{traffic.rows / traffic.seconds:,.0f}",
            *hit_rates(traffic),
            f"{traffic.waited_s:.1f} s, {100 * traffic.waited_s / traffic.seconds:.0f} %",
        )
    return table


def hit_rates(traffic: Traffic) -> list[str]:
    """Of the first epoch, the second, and the worst of all later ones; the report file has them all."""
    rates = [epoch.hit_rate for epoch in traffic.epochs]
    shown = [*rates[:2], *([min(rates[2:])] if rates[2:] else [])]
    return [f"{100 * rate:.0f} %" for rate in shown] + [""] * (3 - len(shown))


def size(count: int) -> str:
    """Bytes for people."""
    if count < KIB:
        return f"{count} B"
    return f"{count / KIB:.1f} KiB" if count < KIB**2 else f"{count / KIB**2:.1f} MiB"
