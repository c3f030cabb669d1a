"""Many runs side by side: space, search, driver, workers, summary."""
