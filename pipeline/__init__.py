"""Distill a text-classification dataset into a handful of synthetic training samples.

The rooms, from the bottom up (arrows point down only):

=================  ====================================================================
``config``         typed, frozen experiments; a grid of cells
``store``          addresses, atomic writes, leases, provenance
``data``           tasks, splits, tokenised batches
``students``       what is trained on a distilled set
``bilevel``        the differentiable inner loop and its hypergradient
``distilled``      the distilled set in memory and as ``distilled.h5``
``methods``        ways to make a small set
``evaluation``     ways to score one
``work``           how much computing a cell is
``report``         tables and figures
``probe``          a measured slice of a cell, for ``estimate``
``stage1_prepare`` … ``stage4_aggregate``   thin: read, call, write
``launch``         cells x stages
=================  ====================================================================
"""
