"""How fast patches can be read from a slide: wsikit, the limit set by decoding, and other readers, side by side."""
