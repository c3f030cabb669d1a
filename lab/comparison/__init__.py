"""Comparing runs: groups by what differs, seeds aggregated with intervals, tables, reports, a live board."""
