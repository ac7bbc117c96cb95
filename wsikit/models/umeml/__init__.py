"""UMEML: a slide's patches and a second set of tokens in one decoder (arXiv 2406.07078). Torch modules only."""
