"""Sets of text, learned through the training of students.

``method`` the distillation, ``run`` one step of its outer loop, ``set`` what is learned, ``start`` what it begins as;
``mixture`` tokens as shares of a vocabulary, ``admm`` beside free embeddings, ``fluency`` what a language model says of
them, ``ensemble`` students of other encoders; ``check`` whether the hypergradient is right.
"""
