"""The five axioms as named laws over data: levels, cases, generators and checks.

The certifier that runs them over a budget is not here yet; every check can be called by itself.
"""
