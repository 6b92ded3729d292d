"""What is trained on a distilled set, as pure functions of its parameters.

``encoder`` Hugging Face classifiers, ``vectors`` networks on frozen sentence vectors, K at once; ``postnorm`` which
encoders the hand-derived passes cover, with ``packing`` (text without its padding) and ``linear`` (their products);
``finetune`` and ``vector_training`` training without second derivatives, by the optimisers of ``first_order``;
``scoring`` logits of a split, ``sentences`` vectors of texts, ``vocabulary`` tokens as points; ``snapshot`` stage 1's
copy of an encoder; ``flops`` and ``vector_flops`` how much computing all that is; ``device`` where.
"""
