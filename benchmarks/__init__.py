"""How fast flowstore is, side by side with a floor and with its peers.

    pip install "flowstore[bench]"
    python -m benchmarks                    # everything; half an hour on two cores
    python -m benchmarks hello fanout       # some
    python -m benchmarks --smoke            # tiny sizes: does it still work?
    python -m benchmarks --json times.json  # also every single measurement

A *floor* is what the same work costs when it is written by hand with the standard library: what a library can
come close to, but not undercut. A *peer* is another library that does it; one that is not installed is
reported so and left out. All contestants of a benchmark take turns within one run, several rounds after one
that is not counted, so that a machine that is busy for a while is so for all of them. The table shows
medians; the target beside them is what flowstore is held to, by people: nothing here fails for being slow.

Each module is one benchmark: a docstring that says what is compared, the floor as a function, and `measure`.
The flows in `flows/` are run with both libraries: for Metaflow, one word of the import line is replaced.
"""
