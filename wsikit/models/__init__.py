"""Neural networks and their folders on disk: encoders, fusion, whole models, save and load. No training, no slides."""
