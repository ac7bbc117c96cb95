"""The local viewer: a slide's report with pixels at full resolution, served on this computer only."""
