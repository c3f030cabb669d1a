"""One experiment on several workers: which rank a process is, collectives, shares."""
