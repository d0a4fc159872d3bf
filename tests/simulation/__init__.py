"""Deterministic simulation of the function: the real code, in a world that misbehaves by the seed.

    timeline      virtual time, an event loop for each process
    faults        what goes wrong, and how often
    wire          the network between an instance and the services
    clients       what an instance's container is given to reach the world with
    firestore, grants, google, pubsub       the services
    instance      a process with its container
    world         a seed becomes a world, and runs until it is at rest
    record        the effects of a run
    invariants    what has to hold for them
    watched       every tenth seed: jobs that are watched; states, watch_record and watch_invariants are its parts
    mutants       changes of the code that have to be found
    versions      several releases in one world
    predecessor   an instance of the release before this one
    excuses       which promises that one does not keep
    liveness      faults that never heal
    lapses        how many claims lapse with nothing sent
    deviations    what a seed drew that need not have happened, and which of it matters
    story         a broken run in fifteen lines

    choices       choices that are enumerated in place of being drawn, and a timeline for them
    small, scenarios        a world of two deliveries, in which every trouble is a choice
    enumeration   every schedule of it within a bound
    explore       the command, what is left out, and the mutants once more

`make simulate SEEDS=1000000` runs as many seeds as asked, on all cores; `SEED=543` shows one of them. `VERSIONS=1` and
`LIVENESS=1` are other worlds of the same seeds. `make explore` runs every schedule of the small world.

docs/testing.md says under "Believed" what is not modelled.
"""
