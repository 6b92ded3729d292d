"""What is trained on a distilled set, as pure functions of its parameters.

``encoder`` Hugging Face classifiers, ``masked`` the same on samples of several lengths, ``vectors`` networks on frozen
sentence vectors, K at once; ``postnorm`` which encoders the hand-derived passes cover, with ``packing`` (text without
its padding) and ``linear`` (their products); ``finetune`` and ``vector_training`` training without second derivatives,
by the optimisers of ``first_order``; ``scoring`` logits of a split, ``sentences`` vectors of texts, ``vocabulary``
tokens as points; ``language`` a language model that is only asked; ``snapshot`` stage 1's copy of a model; ``flops``
and ``vector_flops`` how much computing all that is; ``device`` where.
"""
