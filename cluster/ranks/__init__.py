"""Processes on the cluster that train: one of them a run, or several of them one run, a rank each."""
