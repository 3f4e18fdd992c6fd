"""Admission: every recipe's operator is certified before it answers a row.

A certificate is named by its question: the operator as it is given and as it describes itself, its code,
domain, floor, teachers, classes, profile, budget, seed and versions. The same question has the same answer,
so it is asked once, and kept where the server keeps its state.
"""

from service.admission.certificate import Certificate, check_accepted, shortened
from service.admission.certifier import Certifier
from service.admission.judging import Judgement, Replayed, ask_again, judge, witnesses_in

__all__ = [
    "Certificate",
    "Certifier",
    "Judgement",
    "Replayed",
    "ask_again",
    "check_accepted",
    "judge",
    "shortened",
    "witnesses_in",
]
