"""The main job on real data: train teachers, serve their pool, teach a student, and say what came out.

Its libraries (torch, scikit-learn, matplotlib, rich) come with the extra ``demo`` and are imported here only.
"""
