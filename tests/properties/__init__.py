"""What has to hold for any input: generated, shrunk to the smallest that breaks it, the same in every run.

`make properties EXAMPLES=100000` tries other and more inputs than `make test` does.
"""
