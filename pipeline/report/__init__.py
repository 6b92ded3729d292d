"""Tables and figures from finished cells.

``layout`` cells -> rows and columns (a ``row`` is a method and its budget); ``alternatives`` in what cells differ;
``words`` what a cell is called;
``finished`` and ``archive`` the runs of a cell, from the store or from the files that are committed, with the
``outer_losses`` of its set; ``collect`` all of them, hyper-parameters chosen on dev; ``statistics`` intervals, tests
and verdicts; ``paper`` the published numbers; ``tables`` and ``notes`` what is shown; ``render`` as CSV, Markdown,
LaTeX; ``files`` where they are; ``ledger`` what each cell cost; ``figures`` the plots; ``robustness`` and ``transfer``
the two matrices.

``notebook`` what ``analysis/*.ipynb`` call: ``beside`` ours beside the paper's, ``shown_sets`` a look inside distilled
sets. ``card`` the data card of a set, ``view`` one set as a page.
"""
