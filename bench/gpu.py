"""What only a machine with a GPU can show: strict binding, agreement with the CPU, throughput.

make gpu-check

Exits with 3 where there is no GPU, and with 1 where something does not hold: a session that names the GPU is
bound to it and to nothing else; S, M and V answer as on the CPU to 1e-4 in log-probability where that is
above -20. It prints rows per second of the plan over the bare CUDA session fed from the same arrays.
"""

import os
import sys

import numpy as np
import spox
from sets import SETS, TEMPERATURE, WEIGHTS, ensemble, merged, rate, rows_of

from service.engine.ensemble import Ensemble, Overrides
from service.errors import DeviceError
from service.teachers.base import Device
from service.teachers.session import Session, cuda_works

AGREEMENT = 1e-4
LOG_COMPARED = -20.0


def strict() -> bool:
    """A graph that CUDA has no kernel for must not load, rather than run elsewhere."""
    text = spox.argument(spox.Tensor(np.str_, ("rows",)))
    from spox.opset.ai.onnx import v21  # noqa: PLC0415 - beside its use

    model = spox.build({"text": text}, {"upper": v21.string_normalizer(text, case_change_action="UPPER")})
    try:
        Session(model.SerializeToString(), Device("cuda"), where="strict")
    except DeviceError:
        return True
    return False


def agrees(name: str) -> bool:
    teachers = SETS[name]
    rows = rows_of(teachers, 128)
    temperature = np.full(len(rows), TEMPERATURE, np.float32)
    weights = np.repeat(np.array(WEIGHTS, np.float32)[:, None], len(rows), axis=1)

    def answer(served: Ensemble) -> np.ndarray:
        pair = served.effective("default", Overrides()).pair
        return served.plans.run({"x": rows}, temperature, weights, pair).log_probs

    with ensemble(teachers) as on_cpu:
        expected = answer(on_cpu)
    with ensemble(teachers, device="cuda") as on_gpu:
        assert {member.teacher.device.kind for member in on_gpu.members} == {"cuda"}
        found = answer(on_gpu).copy()
        ours = rate(lambda _: answer(on_gpu), 200, on_gpu.plans.in_flight)
    bare = Session(merged(teachers), Device("cuda"), where=name)
    limit = max(rate(lambda _: bare.run(["pooled"], {"x": rows}), 200, count) for count in (1, 2))
    worst = np.abs(expected - found)[expected > LOG_COMPARED].max()
    print(
        f"{name}: differs from the CPU by {worst:.2g}; {ours / limit:.2f} of the bare session's rows a second"
    )
    return bool(worst <= AGREEMENT)


def main() -> None:
    if not cuda_works():
        print("no GPU that ONNX Runtime can run on; install soft-targets[gpu] on a machine that has one")
        sys.exit(3)
    print(f"{os.cpu_count()} CPUs and a GPU")
    held = [strict(), *map(agrees, SETS)]
    print("strict binding holds" if held[0] else "a session ran where it was not asked to")
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
