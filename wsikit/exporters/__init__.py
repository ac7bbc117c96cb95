"""File writers for maps, outlines, reports, tables and the formats of other tools."""
