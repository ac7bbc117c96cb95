"""One module or folder per file format; `wsikit.slides.registry` picks among them."""
