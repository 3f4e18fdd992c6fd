"""The arguments that operators cite in their claims, each in a sentence; docs/theory.md holds the proofs."""

# The axioms by name, as claims and disclaimers spell them.
CONVEXITY = "convexity_preservation"
POSITIVITY = "positivity_inheritance"
WEIGHTS = "weight_monotonicity"
CONTINUITY = "continuity"
TEMPERATURE = "temperature_coherence"

# --- convexity preservation ---------------------------------------------------------------------------------
HULL = "it is a convex combination of the teachers"
INTERNAL = (
    "Lemma 1: the unnormalised pool f is monotone and homogeneous of degree 1, so p_.c <= M p_.d implies "
    "f(p_.c) <= M f(p_.d)"
)
ANCHORED = (
    "Lemma 1: the unnormalised pool f is monotone and homogeneous of a degree s < 1, so p_.c <= M p_.d with "
    "M >= 1 implies f(p_.c) <= M^s f(p_.d) <= M f(p_.d)"
)
NORMALISED = "it is normalised"

# --- positivity inheritance ---------------------------------------------------------------------------------
SOME_SHARE = "a teacher of positive weight has a positive share in every class that it holds possible"
NO_VETO = "it is positive where all teachers of positive weight are: products and powers of positive numbers"

# --- weight monotonicity ------------------------------------------------------------------------------------
STRAIGHT = "it moves on the straight line to the teacher, at a speed that never changes its sign"
MEDIANT = "Lemma 3: the odds to the power r are the mediant of the old ones and the teacher's"
LOGS_MIX = "Lemma 3: log-odds are means of the teachers', so they move on the straight line to the teacher's"
SHRINKS = "Lemma 2: log-odds move one way, so every f-divergence from the end of the path shrinks"

# --- continuity ---------------------------------------------------------------------------------------------
COMPOSED = "it is composed of continuous functions, and what it divides by is positive"
COMPOSED_AT_ZERO = (
    "it is composed of continuous functions, and what it divides by stays away from 0 on the closed simplex"
)

# --- temperature coherence ----------------------------------------------------------------------------------
BOUNDED = "Theorem 4: log-odds within the teachers' bound the defect by the teachers' diameter over T"
COMMUTES = "softening divides log-probabilities by T, and a mean of logarithms does not mind"
UNIFORM = "it is continuous, and the pool of uniform teachers is uniform"
