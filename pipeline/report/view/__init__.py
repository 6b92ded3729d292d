"""A set as a page that people read: ``gathered`` what stands there, ``written`` as HTML or Markdown."""

from pipeline.report.view.gathered import View, gathered
from pipeline.report.view.written import html, markdown

__all__ = ["View", "gathered", "html", "markdown"]
