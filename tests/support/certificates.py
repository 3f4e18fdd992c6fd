"""What must hold of every certificate, whatever it says."""

import json

from operators.axioms import replay
from operators.axioms.text import reasons, table


def assert_sound(certificate, operator):
    """It is JSON without NaN; and every witness in it, printed or not, breaks its law again from its JSON."""
    json.dumps(certificate.as_dict(), allow_nan=False)
    assert table(certificate)
    assert len(reasons(certificate)) >= len(certificate.violations)
    every = {**certificate.axioms, **certificate.gates, **certificate.properties}
    for verdict in every.values():
        for finding in verdict.findings:
            if finding.witness is None:
                assert finding.holds
                continue
            written = json.loads(json.dumps(finding.witness.as_dict(), allow_nan=False))
            check, margin, told = replay(operator, written)
            assert check is finding.check
            assert margin > 0, check.name
            json.dumps(told, allow_nan=False)
