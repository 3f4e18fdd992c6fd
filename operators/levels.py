"""The five axioms, graded: a profile names the level each of them must reach.

One axiom is an ordered list of levels; a level is reached when its checks and those below hold; -1 means that
not even level 0 is. `paper` is the reading under which the families that arXiv 2601.09165 names all pass and
the usual impostors do not. `strict` is everything the service promises: unanimous teachers are repeated, a
lone teacher is itself, and every log-odds moves one way as weight moves to a teacher.
"""

from collections.abc import Mapping
from types import MappingProxyType

from operators.base import Domain
from operators.errors import InvalidParameter, suggestion

LEVELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "convexity_preservation": (
            "the pool is a distribution",
            "no log-odds of the pool lies outside those of the teachers and of the uniform distribution",
            "no log-odds of the pool lies outside the teachers' own, and unanimous teachers are repeated",
            "no probability of the pool lies outside the teachers' own",
            "the pool lies in the convex hull of the teachers",
        ),
        "positivity_inheritance": (
            "no probability is negative or infinite",
            "what every teacher holds possible is possible for the pool",
            "what any teacher holds possible is possible for the pool",
        ),
        "weight_monotonicity": (
            "nothing is asked",
            "moving weight to a teacher never takes the pool further from that teacher's own, and moves it",
            "it moves every log-odds one way, at once, and all weight on a teacher gives that teacher",
            "it moves every probability one way",
        ),
        "continuity": (
            "nothing is asked",
            "no jump in positive probabilities and weights, a weight going to zero included",
            "no jump where probabilities go to zero either",
        ),
        "temperature_coherence": (
            "the pool of softened teachers moves continuously with T and becomes uniform",
            "a shared ranking survives every T, and pooling before or after differs by diameter / T at most",
            "pooling softened teachers is softening the pool",
        ),
    }
)
AXIOMS = tuple(LEVELS)

PROFILES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "paper": MappingProxyType(dict.fromkeys(AXIOMS, 1)),
        "strict": MappingProxyType(dict(zip(AXIOMS, (2, 1, 2, 1, 1), strict=True))),
    }
)


def required_levels(profile: str, domain: Domain) -> dict[str, int]:
    """The level each axiom must reach; teachers that may hold zeros need continuity at the boundary.

    Raises:
        InvalidParameter: there is no such profile.
    """
    if profile not in PROFILES:
        raise InvalidParameter(f"no profile {profile!r}: {suggestion(profile, PROFILES)}")
    levels = dict(PROFILES[profile])
    if domain == "zeros":
        levels["continuity"] = 2
    return levels
