"""Tables and figures from finished cells.

``layout`` cells -> rows and columns; ``collect`` store -> runs, hyper-parameters chosen on dev; ``intervals`` means and
differences with 95 % intervals; ``paper`` the published numbers; ``tables`` and ``notes`` what is shown; ``render`` as
CSV, Markdown, LaTeX; ``figure`` the plot.
"""
