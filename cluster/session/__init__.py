"""Ray itself: starting it, finding it, watching it."""
