"""Certificates and witnesses for people: plain text, and code that can be pasted."""

import numpy as np

from operators.axioms.cases import Floats
from operators.axioms.certificate import Certificate, Verdict
from operators.axioms.witness import Witness
from operators.levels import AXIOMS, LEVELS, required_levels


def table(certificate: Certificate) -> str:
    """A certificate as a table: a line an axiom and a gate, then the properties, then what is wrong."""
    question = certificate.question
    given = ", ".join(f"{name} = {value}" for name, value in question.parameters)
    asked = f"{question.teachers} teachers, {question.classes} classes"
    how = f"profile {question.profile}, budget {question.budget}, seed {question.seed}"
    lines = [
        f"{question.operator}({given}) on {question.domain} probabilities, {asked}, {how}",
        "",
        f"{'axiom':24}{'level':>6}{'needed':>8}{'trials':>12}  margin",
    ]
    lines += [_line(name, verdict) for name, verdict in {**certificate.axioms, **certificate.gates}.items()]
    held = [name for name, verdict in certificate.properties.items() if verdict.level >= 0]
    lacking = [name for name in certificate.properties if name not in held]
    lines += ["", f"has      {', '.join(held) or 'no further property'}"]
    lines += [f"has not  {', '.join(lacking)}"] * bool(lacking)
    lines += ["", "ADMITTED" if certificate.admitted else "REFUSED"]
    lines += [f"  {text}" for text in reasons(certificate)]
    return "\n".join(lines)


def _line(name: str, verdict: Verdict) -> str:
    needed = "" if verdict.required is None else str(verdict.required)
    margin = (
        f"{verdict.margin:.2g}" if np.isfinite(verdict.margin) else "-" if verdict.reached else "no answer"
    )
    told = "  proved" if verdict.proved else "" if verdict.reached else "  BROKEN"
    return f"{name:24}{verdict.level:>6}{needed:>8}{verdict.trials:>12,}  {margin}{told}"


def reasons(certificate: Certificate) -> list[str]:
    """Why an operator is refused, a paragraph each: the level missed, and the witness."""
    found = []
    for name, verdict in certificate.missed.items():
        step = f"level {verdict.level} of {verdict.required}" if name in AXIOMS else "a gate"
        promise = (
            f" ({LEVELS[name][min(verdict.level + 1, len(LEVELS[name]) - 1)]})" if name in LEVELS else ""
        )
        told = f": {tell(verdict.witness)}" if verdict.witness else _unrepeated(verdict)
        found.append(f"{name}, {step}{promise}{told}")
    return found + list(certificate.contradictions)


def _unrepeated(verdict: Verdict) -> str:
    broken = [finding for finding in verdict.findings if not finding.holds]
    said = "; ".join(
        f"{one.check.name} on {one.broken:,} of {one.trials:,} cases, and not when asked again"
        for one in broken
    )
    return f": broken by {said}" if said else ""


def tell(witness: Witness) -> str:
    """A witness in words: the teachers, the weights, what came out, and the law it breaks."""
    case = witness.case
    parts = [f"teachers {_rows(case.log_probs)}", f"weights {_rows(case.weights, logs=False)}"]
    if case.towards is not None:
        parts.append(f"towards teacher {', '.join(map(str, case.towards))}")
    if case.temperature is not None:
        parts.append(f"T = {', '.join(f'{value:g}' for value in case.temperature)}")
    if case.far_log_probs is not None and case.far_weights is not None:
        far = f"to teachers {_rows(case.far_log_probs)}, weights {_rows(case.far_weights, logs=False)}"
        parts.append(far)
    told = "; ".join(f"{key}: {value}" for key, value in witness.told.items())
    asked = " (asked in float32)" if witness.dtype == "float32" else ""
    return f"{witness.statement} is broken by {', '.join(parts)}{asked}: {told}"


def literal(witness: Witness) -> str:
    """The case as Python: paste it, and ask the operator."""
    case = witness.case
    lines = ["import numpy as np", f"log_probs = {_literal(case.log_probs)}  # [K, B, C]"]
    lines.append(f"weights = np.array({case.weights.tolist()})  # [K, B]")
    if case.far_log_probs is not None and case.far_weights is not None:
        lines.append(f"far_log_probs = {_literal(case.far_log_probs)}")
        lines.append(f"far_weights = np.array({case.far_weights.tolist()})")
    if case.towards is not None:
        lines.append(f"towards = {case.towards.tolist()}")
    if case.temperature is not None:
        lines.append(f"temperature = {case.temperature.tolist()}")
    return "\n".join(lines)


def _literal(log_probs: Floats) -> str:
    probabilities = np.exp(log_probs)
    rounded = np.round(probabilities, 3)
    if np.allclose(rounded, probabilities, rtol=1e-14, atol=0):
        return f"np.log({rounded.tolist()})"
    return f"np.array({log_probs.tolist()})".replace("-inf", "-np.inf")


def _rows(values: Floats, *, logs: bool = True) -> str:
    shown = np.exp(values) if logs else values
    if shown.shape[1] == 1:
        shown = shown[:, 0]
    return np.array2string(shown, separator=", ", precision=6, floatmode="maxprec", threshold=60).replace(
        "\n", ""
    )


def published(levels: dict[str, Certificate]) -> str:
    """The table operator x axiom in Markdown: the level reached, bold where a proof is cited."""
    short = [name.replace("_", " ") for name in AXIOMS]
    lines = [f"| operator | {' | '.join(short)} | `paper` | `strict` |", "|---" * (len(AXIOMS) + 3) + "|"]
    for name, certificate in levels.items():
        cells = [
            f"**{verdict.level}**" if verdict.proven >= verdict.level >= 0 else str(verdict.level)
            for verdict in certificate.axioms.values()
        ]
        cells += [_fails(certificate, profile) for profile in ("paper", "strict")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _fails(certificate: Certificate, profile: str) -> str:
    needed = required_levels(profile, certificate.question.domain)
    missed = [name for name, level in needed.items() if certificate.axioms[name].level < level]
    return ", ".join(missed).replace("_", " ") or "admitted"
