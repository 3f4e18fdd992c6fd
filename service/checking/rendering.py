"""What was found out, for programs and for people."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from service.checking.ensembles import Checked, Finding
from service.checking.surroundings import Surroundings

MIB = 2**20


def document(checked: Sequence[Checked], around: Surroundings | None = None) -> dict[str, Any]:
    """What was found out, as JSON."""
    found: dict[str, Any] = {"ensembles": [{**asdict(one), **_findings(one)} for one in checked]}
    if around is not None:
        found["surroundings"] = {**asdict(around), **_findings(around)}
    return found


def _findings(one: Checked | Surroundings) -> dict[str, Any]:
    return {"findings": [finding._asdict() for finding in one.findings]}


def shown(checked: Sequence[Checked], around: Surroundings | None = None) -> str:
    """The same for people."""
    lines: list[str] = []
    for one in checked:
        lines.append(f"ensemble {one.name}")
        if one.inputs is not None:
            lines.append("  takes " + ", ".join(f"{name} {spec}" for name, spec in one.inputs.items()))
        for teacher in one.teachers:
            inputs = ", ".join(f"{name} {spec}" for name, spec in teacher["inputs"].items())
            lines.append(
                f"  teacher {teacher['name']}: {teacher['model']} ({teacher['bytes'] / MIB:.1f} MiB) on "
                f"{teacher['device']}; {inputs} -> {teacher['output']} ({teacher['kind']}, "
                f"{teacher['classes']} classes)"
            )
        for plan in one.plans:
            operator = dict(plan["operator"])
            named = " ".join([operator.pop("name"), *(f"{key}={value}" for key, value in operator.items())])
            what = f"{named}, sparse" if plan["sparse"] else named
            lines.append(
                f"  plan of {what}: {plan['plan']}, {plan['spread']:.2g} nats between batch sizes; "
                f"{plan['reason']}"
            )
        if one.memory:
            parts = ", ".join(f"{name} {size / MIB:.0f}" for name, size in one.memory.items())
            lines.append(f"  memory, about {sum(one.memory.values()) / MIB:.0f} MiB: {parts}")
        lines += [_cost(name, cost) for name, cost in one.costs.items()]
        lines += [f"  {finding.severity.upper()}: {finding.message}" for finding in one.findings]
        lines += [] if one.findings else ["  nothing amiss"]
    if around is not None:
        lines += _around(around)
    return "\n".join(lines)


def _around(around: Surroundings) -> list[str]:
    lines = ["around it"]
    if (cache := around.cache) is not None:
        what = f" Redis {cache.version}, {cache.policy}," if cache.version else ""
        limit = f" at most {cache.max_bytes / MIB:.0f} MiB" if cache.max_bytes else " no limit"
        lines.append(f"  cache {cache.url}:{what + limit if cache.answers else ' does not answer'}")
    lines += [f"  port {port}: {'free' if free else 'taken'}" for port, free in around.ports.items()]
    for name, place in around.devices.items():
        free = place["free"]
        room = "" if free is None else f", {free / MIB:.0f} free"
        lines.append(f"  device {name}: models {(place['models'] or 0) / MIB:.0f} MiB{room}")
    return lines + [_finding(finding) for finding in around.findings]


def _finding(finding: Finding) -> str:
    return f"  {finding.severity.upper()}: {finding.message}"


def _cost(recipe: str, cost: dict[str, Any]) -> str:
    bare, kept = cost["without_cache"], cost["with_cache"]
    return (
        f"  training on {recipe}: {cost['rows_asked']} rows asked, {cost['reply_bytes'] / MIB:.1f} MiB of "
        f"replies; without a cache {bare['rows_computed']} computed in {bare['teachers_s']:.1f} s, with it "
        f"{kept['rows_computed']} in {kept['teachers_s']:.1f} s, and {cost['kept_bytes'] / MIB:.1f} MiB kept"
    )
