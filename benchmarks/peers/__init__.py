"""Programs that do with another library what a benchmark does with flowstore.

Each is run by the interpreter of `--peers-python`, in an empty folder that is its home, and imports nothing of the
benchmarks. They use what the library's documentation shows, and make its results outlive the process.
"""
