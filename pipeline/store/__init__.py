"""Addresses, atomic writes, provenance, leases.

``cells`` config -> folder, who works on it; ``attempts`` what became of those who did, ``failures`` why; ``usage`` what
this process uses, ``aides`` what other ranks do, ``cost`` all of it together; ``predictions`` what was expected;
``places`` what references count as; ``atomic`` whole files or none; ``provenance`` what an artifact records.
"""

from pipeline.store.attempts import Attempt, attempts_of
from pipeline.store.cells import Cell, Store
from pipeline.store.places import locate

__all__ = ["Attempt", "Cell", "Store", "attempts_of", "locate"]
