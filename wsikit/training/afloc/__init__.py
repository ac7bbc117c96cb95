"""Training and evaluation of AFLoc (`wsikit.models.afloc`)."""
