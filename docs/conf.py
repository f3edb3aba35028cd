"""The guide is Markdown, built by Sphinx, every warning an error: `make docs`."""

project = "manycore"
copyright = "the manycore contributors"
extensions = ["myst_parser"]
exclude_patterns = ["requirements.txt"]
myst_heading_anchors = 3
# A file outside the guide, such as the README, is no page of it, so links to it are web links or none.
nitpicky = True
html_theme = "alabaster"
html_theme_options = {"description": "Process-based parallelism, whole", "fixed_sidebar": True}
