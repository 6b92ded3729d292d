"""Numbers that can be trusted.

``intervals`` means with their variance components and 95 % intervals; ``differences`` between cells on the same rows;
``comparisons`` which pairs are tested, ``verdicts`` what is said of them; ``claims`` the paper's, tested on our runs.
"""
