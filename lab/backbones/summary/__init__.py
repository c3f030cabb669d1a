"""What a network is made of: its layers, their sizes and receptive fields, multiply-adds and memory."""

from lab.backbones.summary.totals import Summary, summarize

__all__ = ["Summary", "summarize"]
