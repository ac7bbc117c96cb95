"""Many slides: manifest, runner, outputs."""
