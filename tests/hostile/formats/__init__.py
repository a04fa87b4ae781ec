"""One module a format: valid files, and attacks that only this format knows."""
