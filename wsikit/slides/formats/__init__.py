"""One module or folder per file format; `wsikit.slides.registry` chooses among them."""
