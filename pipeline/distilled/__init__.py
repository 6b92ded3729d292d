"""The distilled set: the one thing that flows from the methods to the evaluation.

``content`` it in memory, with its inner batches; ``set`` the same with its three-line use; ``recipe`` how students
learn from it; ``classifier`` what those on vectors become; ``text`` what it says, and it as other encoders read it;
``padding`` on which side; ``selection`` what chose it; ``h5`` it as ``distilled.h5`` (format textdd/1).
"""

from pipeline.distilled.h5 import load, save
from pipeline.distilled.recipe import Recipe
from pipeline.distilled.set import DistilledSet
from pipeline.distilled.text import retokenised, texts, transferred

__all__ = ["DistilledSet", "Recipe", "load", "retokenised", "save", "texts", "transferred"]
