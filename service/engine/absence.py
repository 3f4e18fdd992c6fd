"""Teachers elsewhere that do not answer while their ensemble is loaded: who may be, and how they join."""

import threading
import time
from collections.abc import Callable, Mapping

from service.config import Ensemble as EnsembleConfig
from service.config import RemoteModel
from service.config import Teacher as TeacherConfig
from service.engine.binding import member_of, open_teacher, probe, remote_teacher
from service.errors import TeacherError, TeacherFailure, TeacherSilent, TeacherUnreachable
from service.plans.alignment import Alignment
from service.plans.member import Member
from service.teachers.base import Teacher
from service.teachers.remote import RemoteTeacher
from service.teachers.session import Deadlines
from service.telemetry import logger
from soft_targets.wire import TensorSpec

# An absent teacher is sought again with the first batch after so long, or so many times what it took to find
# that it is absent: one that hangs must not hold up every batch.
SOUGHT_AGAIN_S, TIMES_AS_LONG = 5.0, 3.0

log = logger("engine")


def may_be_absent(config: EnsembleConfig, absent: int) -> bool:
    """Whether the quorum is met without so many teachers.

    Who sets a quorum wants to go on without a teacher, and it may be away at a start as at any other time: a
    server that is restarted during an outage of one teacher must not be down until the outage is over.
    """
    return config.quorum != "all" and len(config.teachers) - absent >= config.quorum


def open_teachers(ensemble: str, config: EnsembleConfig, deadlines: Deadlines) -> list[Teacher]:
    """Load all teachers; those elsewhere that do not answer are there unmet, where the quorum allows it.

    Raises:
        TeacherUnreachable: too many of them do not answer.
        TeacherError: one cannot be used.
        DeviceError: one does not run on the device that was named.
    """
    opened: list[Teacher] = []
    absent: list[str] = []
    try:
        for section in config.teachers:
            try:
                opened.append(open_teacher(ensemble, section, config, deadlines))
            except TeacherUnreachable as exc:
                absent.append(str(exc))
                if not may_be_absent(config, len(absent)):
                    raise TeacherUnreachable("\n".join(absent)) from None
                assert isinstance(section.model, RemoteModel), "only those elsewhere are unreachable"
                opened.append(remote_teacher(ensemble, section, section.model, deadlines))
    except BaseException:
        for teacher in opened:
            teacher.close()
        raise
    for reason in absent:
        log.warning("teacher absent", reason=reason)
    return opened


def absent_member(
    ensemble: str,
    section: TeacherConfig,
    teacher: Teacher,
    inputs: Mapping[str, TensorSpec],
    classes: tuple[str, ...],
) -> Member:
    """The place of a teacher that is absent; it says nothing until it is met."""
    assert isinstance(teacher, RemoteTeacher), "only those elsewhere can be absent"
    pairs = section.classes if section.classes is not None else tuple((one, one) for one in classes)

    def bind() -> Member:
        teacher.meet()
        member = member_of(ensemble, section, teacher, inputs, classes)
        probe(ensemble, inputs, member)
        log.info("teacher met", ensemble=ensemble, teacher=teacher.name)
        return member

    return Member(
        teacher=teacher,
        feeds={},
        dtypes={},
        output=teacher.output,
        kind=section.output.kind,
        temperature=section.temperature,
        classes=tuple(theirs for theirs, _ in pairs),
        alignment=Alignment(classes, [ours for _, ours in pairs]),
        meet=_Meeting(teacher.name, bind),
    )


class _Meeting:
    """Seeks an absent teacher, one thread at a time and not too often; the others go on without it."""

    def __init__(self, name: str, bind: Callable[[], Member]) -> None:
        self._name = name
        self._bind = bind
        self._lock = threading.Lock()
        self._met: Member | None = None
        self._again = 0.0
        self._said = "it is being sought"

    def __call__(self) -> Member:
        """The teacher's place, bound and tried as at start.

        Raises:
            TeacherFailure: it is still absent, or cannot be used.
        """
        if not self._lock.acquire(blocking=False):
            raise self._absent()
        try:
            began = time.monotonic()
            if self._met is None and began >= self._again:
                try:
                    self._met = self._bind()
                except TeacherError as exc:
                    self._said = str(exc)
                    now = time.monotonic()
                    self._again = now + max(SOUGHT_AGAIN_S, TIMES_AS_LONG * (now - began))
            if self._met is None:
                raise self._absent()
            return self._met
        finally:
            self._lock.release()

    def _absent(self) -> TeacherFailure:
        return TeacherSilent(
            f"teacher {self._name!r} has been absent since the start: {self._said}", teacher=self._name
        )
