"""The comparison as a page: written as a file, or served live."""
