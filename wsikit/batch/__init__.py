"""Runs over many slides: manifest, plan, stages, scheduler, records, patients."""
