"""The data card of a distilled set: what it is, how it scored, what an audit of it found, and whether that holds.

``facts`` what a card claims, as data in its front matter; ``scores`` these from finished evaluations, ``history`` how
the set was selected, ``gather`` from everything there is; ``audit`` (with ``overlap`` and ``vector_audit``) what is in
the set; ``front`` and ``text`` the card itself; ``criterion`` claimed against measured; ``push`` to the hub.
"""
