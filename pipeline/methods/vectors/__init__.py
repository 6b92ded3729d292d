"""Sets of frozen sentence vectors: RaT-BPTT and Boost-DD.

``method`` the distillation, ``run`` one step of its outer loop, ``set`` what is learned, ``check`` whether the
hypergradient is right.
"""
