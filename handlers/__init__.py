"""A failed archive job comes in, Google is asked once to retry it, and the new job's id goes out."""
