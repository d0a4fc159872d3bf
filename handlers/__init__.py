"""archive-job-retry: see docs/design.md for the layers and what each may import."""

__version__ = "2.0.0"
