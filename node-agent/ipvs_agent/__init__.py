"""The node agent: makes one host a director or a real server, and tells the truth about it."""

__version__ = "0.1.0"
