"""Deterministic simulation of the function: the real code, in a world that misbehaves by the seed.

    timeline      virtual time, an event loop for each process
    weather       what goes wrong, and how often
    wire          the network between an instance and the services
    firestore, grants, google, pubsub       the services
    instance      the function's real parts, put together over the wire
    world         a seed becomes a world, and runs until it is at rest
    record        the effects of a run
    promises      what has to hold for them
    planted       faults that have to be found

`make simulate SEEDS=1000000` runs as many seeds as asked, on all cores; `SEED=543` shows one of them.
"""
