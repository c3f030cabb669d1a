"""One experiment on several workers: what a rank knows of itself, and how ranks agree."""
