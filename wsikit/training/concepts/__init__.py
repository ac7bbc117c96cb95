"""Concept heads: which concepts a patch shows, and the class from these alone (`wsikit.models.concept_head`)."""
