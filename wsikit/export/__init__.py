"""What a pathologist and a pipeline take away: maps, outlines, reports. Arrays in, files out; no store knowledge."""
