"""One slide's results: loaded from its store, written as map, GeoJSON, JSON, report; exports and imports."""
