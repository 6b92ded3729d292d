"""Tables and figures from finished cells.

``layout`` cells -> rows and columns; ``alternatives`` in what cells differ; ``words``, ``vector_words`` and
``composed_words`` what a cell is, in words; ``finished`` and ``archive`` the runs of a cell, from the store or from the
files that are committed; ``collect`` all of them, hyper-parameters chosen on dev; ``intervals`` means with their
variance components and 95 % intervals; ``statistics`` differences on the same rows, ``comparisons`` which pairs,
``verdicts`` what is said of them; ``paper`` the published numbers; ``tables`` and ``notes`` what is shown; ``render``
as CSV, Markdown, LaTeX; ``figure`` the plot.

``notebook`` what ``analysis/*.ipynb`` call: ``beside`` ours beside the paper's, ``claims`` the paper's claims tested,
``budget_figure`` and ``loss_figure`` curves, ``shown_sets`` and ``set_figures`` a look inside distilled sets;
``canvas`` is what figures share. ``view`` one set as a page.
"""
