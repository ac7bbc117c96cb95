"""OME-Zarr images of other programs."""
