"""The fast path for post-norm encoders (BERT, RoBERTa, ELECTRA, DistilBERT): derivatives derived by hand.

In the order of the mathematics; each of the first four files holds an operation's forward, backward, tangent, and
tangent of the backward:

``products``     linear layers and the products of attention
``elementwise``  layer norm and activations
``attention``    many heads, with the attention loss
``layer``        one encoder layer made of these
``ends``         embeddings and classifier
``encoder``      the passes through all of it
``real``         first-order passes over real sequences: the outer loss, and scores
``passes``       the losses' derivatives, chunk by chunk: what the recursion calls

``structure`` (an encoder as sizes and named places), ``flat`` (its parameters as one vector), ``sums`` (where gradients
add up), ``grid`` (where tokens stand) and ``packed`` (real sequences without padding) are what they work on.
"""

from pipeline.bilevel.fused.flat import FlatParameters
from pipeline.bilevel.fused.packed import Packed
from pipeline.bilevel.fused.passes import Fused
from pipeline.bilevel.fused.structure import Activation, PostNorm, places

__all__ = ["Activation", "FlatParameters", "Fused", "Packed", "PostNorm", "places"]
