"""Addresses, atomic writes, provenance, leases.

``cells`` config -> folder, who works on it; ``places`` what references count as; ``atomic`` whole files or none;
``provenance`` what an artifact records.
"""

from pipeline.store.cells import Cell, Store
from pipeline.store.places import locate

__all__ = ["Cell", "Store", "locate"]
