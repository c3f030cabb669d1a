"""Agents and people at play: windows, films, explanations, demonstrations, export."""
