"""The command line: one light module per verb."""
