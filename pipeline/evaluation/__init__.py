"""Scores a distilled set on fresh initialisations.

``protocols`` how a student learns from the set, ``on_vectors`` small students from vectors, ``robustness`` and
``variants_on_vectors`` both in other ways than meant; ``prompting`` how a language model answers that is shown the set,
``prompts`` what it reads; ``selection`` which moment of a training is kept; ``metrics`` what is measured; ``results``
the CSV that is its own checkpoint, ``record`` it and the predictions.
"""
