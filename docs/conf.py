"""The guide is Markdown, the reference comes from the docstrings. Built by Sphinx, warnings are errors: `make docs`."""

project = "manycore"
copyright = "the manycore contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design"]
myst_enable_extensions = ["colon_fence"]
exclude_patterns = ["requirements.txt"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "manycore"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e4f", "color-brand-content": "#0b6e4f"},
    "dark_css_variables": {"color-brand-primary": "#5fd3a6", "color-brand-content": "#5fd3a6"},
}
# What docstrings put between single backticks is code.
default_role = "literal"
html_copy_source = False
# Types stand in the signatures as they are written; most of them are the standard library's.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
