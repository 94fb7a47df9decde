"""The seam to the API server."""
