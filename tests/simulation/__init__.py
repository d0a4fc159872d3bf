"""Deterministic simulation of the function: the real code, in a world that misbehaves by the seed.

    timeline      virtual time, an event loop for each process
    faults        what goes wrong, and how often
    wire          the network between an instance and the services
    clients       the seams of an instance's container over the wire
    firestore, grants, google, pubsub       the services
    instance      a process with its container
    world         a seed becomes a world, and runs until it is at rest
    record        the effects of a run
    invariants    what has to hold for them
    mutants       changes of the code that have to be found
    lapses        how many claims lapse with nothing sent
    deviations    what a seed drew that need not have happened, and which of it matters
    story         a broken run in fifteen lines

    choices       choices that are enumerated in place of being drawn, and a timeline for them
    small, scenarios        a world of two deliveries, in which every trouble is a choice
    enumeration   every schedule of it within a bound
    explore       the command, what is left out, and the mutants once more

`make simulate SEEDS=1000000` runs as many seeds as asked, on all cores; `SEED=543` shows one of them. `make
explore` runs every schedule of the small world.

Not modelled: TLS, HTTP and gRPC as such (connections, flow control, what is in flight when one breaks), Pub/Sub's
exact back-off and ordering, Firestore's transactions and contention (a call is one atomic effect; ABORTED is drawn),
CPU time and memory, the endpoints in handlers/web, traces, the watch, and redrive.
"""
