"""The five axioms as named laws over data, and the certifier that asks an operator all of them."""

from operators.axioms.cases import Cases, NotJudged
from operators.axioms.certificate import Certificate, Finding, Question, Verdict
from operators.axioms.certify import certify, question_of, replay
from operators.axioms.check import GATES, Check
from operators.axioms.trials import CHECKS
from operators.axioms.witness import Witness
from operators.levels import AXIOMS, LEVELS, PROFILES, required_levels

__all__ = [
    "AXIOMS",
    "CHECKS",
    "GATES",
    "LEVELS",
    "PROFILES",
    "Cases",
    "Certificate",
    "Check",
    "Finding",
    "NotJudged",
    "Question",
    "Verdict",
    "Witness",
    "certify",
    "question_of",
    "replay",
    "required_levels",
]
