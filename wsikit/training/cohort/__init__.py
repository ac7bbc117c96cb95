"""Cohorts of patients: tables with slides, follow-up and labels; their checks, splits, baselines and evaluation."""
