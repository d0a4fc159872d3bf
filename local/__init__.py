"""Google Cloud on one machine: what `make demo` and the tests run on."""
