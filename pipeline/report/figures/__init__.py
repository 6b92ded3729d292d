"""Figures, readable in black and white, each saved as PNG and PDF; ``canvas`` is what they share."""
