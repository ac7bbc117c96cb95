"""The local viewer: a slide's report with its pixels at full depth, served on this computer alone."""
