"""How the manual is built: `make docs`."""

from importlib.metadata import version as installed

project = "Tollway"
author = "The Tollway authors"
copyright = "2026, the Tollway authors"
version = release = installed("tollway")

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"Tollway {release}"
