"""The table operator x axiom: every built-in operator certified, as Markdown.

    make axioms                 prints it at quick, and writes it into the README
    make nightly                at full, over many seeds, into docs/axioms.md

A cell is the level reached, bold where a proof is cited.
"""

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from operators import BUILTIN, Operator, make
from operators.axioms import AXIOMS, Certificate, certify
from operators.axioms.text import published

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- axioms: written by `make axioms` -->", "<!-- end of axioms -->"
ROWS: dict[str, Operator] = {
    "`linear`": make("linear"),
    "`geometric`": make("geometric"),
    "`holder` r = 0.5": make("holder", exponent=0.5),
    "`holder` r = 2": make("holder", exponent=2),
    "`holder` r = -1": make("holder", exponent=-1),
    "`entropy_weighted`": make("entropy_weighted"),
    "`inverse_entropy`": make("inverse_entropy"),
    "`entropic_regularised`": make("entropic_regularised"),
    "`weighted_max`": make("weighted_max"),
    "`trimmed_mean`": make("trimmed_mean"),
    "`l2_median`": make("l2_median"),
    "`tsallis`": make("tsallis"),
    "`wasserstein`": make("wasserstein"),
    "`smoothed_geometric`": make("smoothed_geometric"),
}


# They iterate: at full they would take hours each, so a night judges them at quick.
SLOW = {"l2_median", "tsallis", "wasserstein"}


def table(*, budget: str, seed: int) -> dict[str, Certificate]:
    """Certify every row, telling how far it is on standard error."""
    assert {operator.name for operator in ROWS.values()} == set(BUILTIN)
    found = {}
    for name, operator in ROWS.items():
        began = time.perf_counter()
        asked = "quick" if operator.name in SLOW else budget
        found[name] = certify(operator, teachers=3, classes=10, budget=asked, seed=seed)
        levels = tuple(verdict.level for verdict in found[name].axioms.values())
        told = "; ".join(found[name].contradictions)
        print(f"{name} seed {seed}: {levels} in {time.perf_counter() - began:.0f} s {told}", file=sys.stderr)
    return found


def into(path: Path, text: str) -> None:
    """Replace what stands between the marks."""
    before, rest = path.read_text().split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="quick")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--into", type=Path, default=None)
    asked = parser.parse_args()
    tables = [table(budget=asked.budget, seed=seed) for seed in range(asked.seeds)]
    shown = published(tables[0])
    differ = [
        f"{name}, {axiom}: level {one[name].axioms[axiom].level} with seed {seed}, "
        f"{tables[0][name].axioms[axiom].level} with seed 0"
        for seed, one in enumerate(tables)
        for name in ROWS
        for axiom in AXIOMS
        if one[name].axioms[axiom].level != tables[0][name].axioms[axiom].level
    ]
    if asked.seeds > 1:
        when = datetime.now(tz=UTC).date().isoformat()
        shown += f"\n\n{when}, budget {asked.budget}, {asked.seeds} seeds. " + (
            "Cells that differ between seeds: " + "; ".join(differ)
            if differ
            else "Every seed gives this table."
        )
    if asked.into is None:
        print(shown)
    else:
        into(asked.into, shown)


if __name__ == "__main__":
    main()
