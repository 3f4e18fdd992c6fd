"""The plans of an ensemble: which of them answers a pair, and what happens when it fails."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from service.errors import CannotRecord, GraphFailure, TeacherError
from service.model import Array
from service.plans import recording
from service.plans.base import Asked, Chosen, Outcome, Pair, Plan
from service.plans.graphs import FusedPlan, StagedPlan
from service.plans.member import Member
from service.plans.sizing import IN_FLIGHT_ELSEWHERE, ROWS_ELSEWHERE, Sizing, fastest, resized, warm
from service.plans.split import SplitPlan
from service.plans.stages import Kept, as_kept
from service.plans.trials import (
    check_converted,
    differs,
    disagreement,
    not_closed,
    probe_of,
    spread,
    spread_apart,
)
from service.teachers.onnx import OnnxTeacher
from service.teachers.remote import RemoteTeacher
from service.teachers.session import Deadlines, Session
from service.telemetry import Seldom, logger
from soft_targets.wire import TensorSpec

MOST_FUSED = 2  # pairs in the configuration; each has a session with all teachers in it
LARGEST_BYTES = 2_000_000_000  # of models in one graph, which is one message of at most 2 GB
DISAGREES = "as one graph the teachers answer differently on the rows it was tried on"

log = logger("plans")


class Plans:
    """The plans of one ensemble.

    Args:
        name: of the ensemble.
        members: the teachers in order; one that was absent is replaced when it is met.
        inputs: of the ensemble.
        classes: how many it has.
        sizing: how batches are run.
        partial: whether a row may be answered without all teachers.
        deadlines: how long a call may take.
        keep: in which precision opinions are kept; None where they are not.

    Attributes:
        apart: every teacher in its own session; a failed batch is asked there again.
        in_flight: how many batches should run at a time.
        threads: how many threads a session uses.
        row_s: how many seconds of teachers' work a row took when they were tried; 0 where nobody has looked.
    """

    def __init__(
        self,
        name: str,
        members: list[Member],
        inputs: Mapping[str, TensorSpec],
        classes: int,
        *,
        sizing: Sizing,
        partial: bool,
        deadlines: Deadlines,
        keep: Kept | None = None,
    ) -> None:
        self._where = f"ensemble {name!r}"
        self._members = members
        self._inputs = inputs
        self._classes = classes
        self._sizing = sizing
        self._partial = partial
        self._deadlines = deadlines
        self._keep = keep
        self._pool = ThreadPoolExecutor(sizing.cores, thread_name_prefix=f"teachers-{name}")
        self._chosen: dict[Any, Chosen] = {}
        self._staged: StagedPlan | None = None
        self._no_graph: str | None = None
        self._unrecorded: dict[Any, str] = {}  # operators that numpy runs, and why
        self._recorded: dict[Any, bytes] = {}  # while loading: graphs that several sessions are made of
        self._rows: Mapping[str, Array] = {}
        self._lock = threading.Lock()
        self._seldom = Seldom()
        self.in_flight = sizing.in_flight or 1
        self.threads = sizing.threads or 1
        self.row_s = 0.0
        self.apart = self._split("asked teacher by teacher")

    def close(self) -> None:
        """Stop the teachers' threads."""
        self._pool.shutdown(cancel_futures=True)

    def choose(self, asked: Sequence[Asked], rows: Mapping[str, Array], *, spread_limit: float) -> None:
        """Make the plans of the configuration's pairs, try them on rows, size and warm them.

        Args:
            asked: what the recipes ask.
            rows: input to array ``[32, ...]``, to try them on.
            spread_limit: by how many nats a row may differ between batch sizes.

        Raises:
            TeacherError: an answer depends on the batch's size by more than that.
        """
        first: dict[Any, Asked] = {}
        for one in asked:
            first.setdefault(one.pair.key, one)
        self._rows = rows
        log.info("trying teachers and plans", where=self._where, plans=len(first))  # which may take a while
        self._no_graph = self._why_no_graph(rows)
        if any(isinstance(member.teacher, RemoteTeacher) for member in self._members):
            self._choose_apart(first, rows, spread_limit)
            return
        make = self._fused if len(first) <= MOST_FUSED and self._keep is None else self._pair_staged
        self._size(next(iter(first.values())), make, rows)
        for key, one in first.items():
            plan = self._made(one, make, rows)
            found = spread(probe_of(plan, rows, one.temperature, one.weights, one.pair), _count(rows))
            self._check_spread(found, spread_limit, f"under the {plan.name} plan")
            self._chosen[key] = Chosen(plan, one.pair, found)
            self.row_s = warm(plan, one, rows, max_rows=self._sizing.max_rows)
        self._recorded.clear()
        if all(chosen.plan.name != "split" for chosen in self._chosen.values()):
            for member in self._members:
                if isinstance(member.teacher, OnnxTeacher):
                    member.teacher.release()  # its weights are in the graph too

    def _choose_apart(
        self, pairs: Mapping[Any, Asked], rows: Mapping[str, Array], spread_limit: float
    ) -> None:
        """Each teacher is tried once, whatever the pairs: what one elsewhere answers may be dear."""
        self.in_flight, worst = self._sizing.in_flight or IN_FLIGHT_ELSEWHERE, 0.0
        most = self._sizing.max_rows
        few, batch = resized(rows, min(ROWS_ELSEWHERE, most)), resized(rows, most)
        for member in [one for one in self._members if one.meet is None]:
            found = spread_apart(self._where, member, few, batch)
            self._check_spread(found, spread_limit, f"as teacher {member.teacher.name!r} answers them")
            worst = max(worst, found)
        plan = self._split(self._no_graph or "")
        self._chosen |= {key: Chosen(plan, one.pair, worst) for key, one in pairs.items()}

    def _check_spread(self, found: float, limit: float, whose: str) -> None:
        if not found <= limit:
            raise TeacherError(
                f"{self._where}: the same rows differ by {found:.3g} nats between batch sizes {whose}, "
                f"more than server.spread_limit ({limit:g}); export the models for inference, or raise the "
                "limit if such targets will do"
            )

    def name_of(self, pair: Pair) -> str:
        """The plan of a pair: fused, staged or split; never another one while the ensemble is loaded."""
        chosen = self._chosen.get(pair.key)
        if chosen is not None:
            return chosen.plan.name
        return "split" if self._no_graph is not None or pair.operator[:3] in self._unrecorded else "staged"

    def plan(self, pair: Pair) -> Plan:
        """The plan of a pair, chosen now where it comes after loading; that takes a moment."""
        with self._lock:
            if pair.key not in self._chosen:
                self._chosen[pair.key] = Chosen(self._late(pair), pair, None)
            return self._chosen[pair.key].plan

    def report(self) -> list[dict[str, Any]]:
        """The pairs and their plans, as JSON."""
        return [
            {
                "operator": {"name": pair.operator.name, **dict(pair.operator.parameters)},
                "sparse": pair.top_k is not None,
                "diagnostics": pair.diagnostics,
                "plan": plan.name,
                "reason": plan.reason,
                "spread": found,
            }
            for plan, pair, found in self._chosen.values()
        ]

    def run(
        self,
        inputs: Mapping[str, Array],
        temperature: Array,
        weights: Array,
        pair: Pair,
        *,
        until: float = math.inf,
    ) -> Outcome:
        """Answer a batch by the pair's plan; what fails there is asked again teacher by teacher.

        Args and the answer are those of ``SplitPlan.run``; rows answered again are marked.
        """
        if self._keep is not None:
            return self._run_kept(inputs, temperature, weights, pair, kept=self._keep, until=until)
        plan = self.plan(pair)
        if isinstance(plan, SplitPlan):
            return plan.run(inputs, temperature, weights, pair, until=until)
        if self.apart.waiting:  # the graph would wait for the teacher that overran
            return self._again(inputs, temperature, weights, pair)
        try:
            outcome = plan.run(inputs, temperature, weights, pair)
        except (GraphFailure, CannotRecord) as exc:
            self._tell_again(exc)
            return self._again(inputs, temperature, weights, pair)
        heard = outcome.valid | (weights == 0)
        rows = np.flatnonzero(~outcome.valid.all(axis=0) & (heard.all(axis=0) | self._partial))
        if plan.name == "fused" and len(rows):
            # Inside the graph nobody was left out of these rows.
            part = {name: values[rows] for name, values in inputs.items()}
            return outcome.amended(rows, self._again(part, temperature[rows], weights[:, rows], pair))
        return outcome

    def fuse(self, opinions: Array, temperature: Array, weights: Array, pair: Pair) -> Outcome:
        """Answer rows by opinions ``[K, B, C]`` that were kept; no teacher is asked."""
        valid = np.ones(weights.shape, dtype=bool)
        return self._open(pair).fuse(opinions, valid, temperature, weights, pair)

    def _open(self, pair: Pair) -> StagedPlan | SplitPlan:
        plan = self.plan(pair)
        assert isinstance(plan, StagedPlan | SplitPlan), "where opinions are kept nothing is fused whole"
        return plan

    def _run_kept(
        self,
        inputs: Mapping[str, Array],
        temperature: Array,
        weights: Array,
        pair: Pair,
        *,
        kept: Kept,
        until: float,
    ) -> Outcome:
        """Answer a batch by opinions as they will be kept, of every teacher: other weights may follow."""

        def run(plan: StagedPlan | SplitPlan) -> Outcome:
            found, valid, failures, took = plan.opinions(inputs, np.ones_like(weights), until=until)
            opinions = as_kept(found, kept)
            outcome = plan.fuse(opinions, valid, temperature, weights, pair)
            return outcome._replace(failures=failures, opinions=opinions, took=took + outcome.took)

        plan = self._open(pair)
        if plan.name == "split" or not self.apart.waiting:
            try:
                return run(plan)
            except (GraphFailure, CannotRecord) as exc:
                self._tell_again(exc)
        return run(self.apart)._replace(again=np.ones(len(temperature), dtype=bool))

    def _tell_again(self, error: Exception) -> None:
        if times := self._seldom.times("again"):
            log.warning("asked again teacher by teacher", where=self._where, error=str(error), batches=times)

    def _again(self, inputs: Mapping[str, Array], temperature: Array, weights: Array, pair: Pair) -> Outcome:
        outcome = self.apart.run(inputs, temperature, weights, pair)
        return outcome._replace(again=np.ones(len(temperature), dtype=bool))

    def _why_no_graph(self, rows: Mapping[str, Array]) -> str | None:
        """Why the teachers cannot be one graph, or None."""
        for member in self._members:
            if isinstance(member.teacher, RemoteTeacher):
                return f"teacher {member.teacher.name!r} answers from elsewhere"
        devices = {str(member.teacher.device) for member in self._members}
        if len(devices) > 1:
            return f"the teachers run on several devices: {', '.join(sorted(devices))}"
        local = [member.teacher for member in self._members if isinstance(member.teacher, OnnxTeacher)]
        for teacher in local:
            if teacher.allow_cpu and teacher.device.kind != "cpu":
                return f"teacher {teacher.name!r} may run in part on the CPU"
        size = sum(teacher.size_bytes for teacher in local)
        if size > LARGEST_BYTES:
            return f"together the models are {size} bytes; one graph may have {LARGEST_BYTES}"
        try:
            sources = [recording.source(member) for member in self._members]
            for source in sources:
                if source.changed:
                    check_converted(source, rows)
        except CannotRecord as exc:
            return str(exc)
        return None

    def _session(self, model: bytes) -> Session:
        device = self._members[0].teacher.device
        try:
            return Session(model, device, where=self._where, threads=self.threads, memory=self._sizing.memory)
        except Exception as exc:  # noqa: BLE001 - ONNX Runtime's errors have no common root
            raise CannotRecord(f"the runtime does not take the graph: {exc}") from None

    def _graph(self, key: Any, record: Callable[[list[recording.Source]], bytes]) -> bytes:
        if key not in self._recorded:
            self._recorded[key] = record([recording.source(member) for member in self._members])
        return self._recorded[key]

    def _fused(self, pair: Pair) -> Plan:
        self._check_operator(pair)
        model = self._graph(pair.key, lambda sources: recording.fused(sources, self._inputs, pair))
        reason = "one graph from row to target"
        return FusedPlan(self._session(model), self._classes, deadlines=self._deadlines, reason=reason)

    def _pair_staged(self, pair: Pair) -> Plan:
        plan = self._teachers_staged()
        plan.fusion(pair)
        return plan

    def _teachers_staged(self) -> StagedPlan:
        if self._staged is None:
            model = self._graph("teachers", lambda sources: recording.teachers(sources, self._inputs))
            session = self._session(model)
            self._check_opinions(session)
            self._staged = StagedPlan(
                session,
                self._fusion,
                deadlines=self._deadlines,
                reason=f"pairs of operator and sparsity beyond {MOST_FUSED}, and those that come after "
                "loading, share the teachers' graph"
                if self._keep is None
                else "opinions are kept, so the teachers' graph ends in them",
            )
        return self._staged

    def _fusion(self, pair: Pair) -> Session:
        self._check_operator(pair)
        return self._session(recording.fusion(len(self._members), self._classes, pair))

    def _check_operator(self, pair: Pair) -> None:
        """Closure and positivity of what is recorded, and that numpy in float64 agrees."""
        operator, count = pair.operator, len(self._members)
        if operator[:3] in self._unrecorded:
            raise CannotRecord(self._unrecorded[operator[:3]])
        dense = pair._replace(top_k=None, diagnostics=False)
        try:
            session = self._session(recording.fusion(count, self._classes, dense))
        except CannotRecord as exc:
            self._unrecorded[operator[:3]] = str(exc)
            raise
        wrong = not_closed(session, dense, count, self._classes)
        if wrong is not None:
            self._unrecorded[operator[:3]] = f"operator {operator.name!r}: {wrong}"
            raise CannotRecord(self._unrecorded[operator[:3]])

    def _check_opinions(self, session: Session) -> None:
        feeds = {recording.inputs_of(name): values for name, values in self._rows.items()}
        try:
            found, valid = session.run(["opinions", "valid"], feeds)
        except Exception as exc:  # noqa: BLE001 - ONNX Runtime's errors have no common root
            raise CannotRecord(f"the teachers' graph does not run: {exc}") from None
        everybody = np.ones(valid.shape, dtype=np.float32)
        known, sound, failures, _ = self.apart.opinions(self._rows, everybody)
        if failures or (valid != sound).any() or disagreement(found, known) > 1:
            raise CannotRecord(DISAGREES)

    def _split(self, reason: str) -> SplitPlan:
        return SplitPlan(self._members, self._classes, pool=self._pool, reason=reason)

    def _made(self, one: Asked, make: Callable[[Pair], Plan], rows: Mapping[str, Array]) -> Plan:
        """A graph that agrees with numpy on these rows, or the split plan with the reason why not."""
        if self._no_graph is not None:
            return self._split(self._no_graph)
        try:
            plan = make(one.pair)
            question = (rows, one.temperature, one.weights, one.pair)
            whole = slice(0, _count(rows))
            found, known = probe_of(plan, *question)(whole), probe_of(self.apart, *question)(whole)
        except (CannotRecord, GraphFailure) as exc:
            return self._split(str(exc))
        if differs(found, known):
            return self._split(DISAGREES)
        return plan

    def _late(self, pair: Pair) -> Plan:
        if self._no_graph is not None:
            return self._split(self._no_graph)
        try:
            return self._pair_staged(pair)
        except CannotRecord as exc:
            return self._split(str(exc))

    def _size(self, one: Asked, make: Callable[[Pair], Plan], rows: Mapping[str, Array]) -> None:
        """Find how many threads a session should have, and how many batches should run at a time."""
        candidates = self._sizing.candidates(self._members[0].teacher.device.kind)
        if len(candidates) == 1:
            self.threads, self.in_flight = candidates[0]
            return
        batch = resized(rows, self._sizing.max_rows)
        runs = []
        for threads, _ in candidates:
            self.threads, self._staged = threads, None
            probe = probe_of(self._made(one, make, rows), batch, one.temperature, one.weights, one.pair)
            runs.append(lambda probe=probe: probe(slice(0, self._sizing.max_rows)))
            runs[-1]()
        self.threads, self.in_flight = fastest(candidates, runs)
        self._staged = None
        log.info("sized by measurement", where=self._where, threads=self.threads, in_flight=self.in_flight)


def _count(rows: Mapping[str, Array]) -> int:
    return len(next(iter(rows.values())))
