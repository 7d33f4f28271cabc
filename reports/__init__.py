"""Turns a finished run into HTML, Markdown and JUnit. Reads values, measures nothing; strings out, no file written."""

from reports.html import html
from reports.junit import junit
from reports.markdown import markdown

__all__ = ["html", "junit", "markdown"]
