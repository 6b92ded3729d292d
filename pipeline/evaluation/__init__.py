"""Scores a distilled set on fresh initialisations.

``protocols`` how a student learns from the set; ``metrics`` what is measured; ``results`` the CSV that is its own
checkpoint.
"""
