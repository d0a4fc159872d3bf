"""A failed archive job comes in, Google is asked once to retry it, and the new job's id goes out."""

import gc

# Objects between collections, instead of 700: what is imported stays, and so does most of what is held in flight.
gc.set_threshold(20_000)
