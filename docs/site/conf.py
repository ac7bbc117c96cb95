"""Sphinx settings of the documentation site."""

import wsikit

project = "wsikit"
author = "the wsikit developers"
version = release = wsikit.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"wsikit {version}"
html_show_sphinx = False

# Markdown as on the forge: headings are anchors with the forge's names, $ and : mean nothing
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

# notebooks run only where build.py asks for it; one that fails ends the build
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_in_temp = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autoclass_content = "class"
default_role = "code"  # `name` in a docstring is code
numpydoc_show_class_members = False  # autodoc lists them
add_module_names = False
copybutton_exclude = ".linenos, .gp"
