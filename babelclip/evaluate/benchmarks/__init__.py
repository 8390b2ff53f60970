"""Benchmarks of the field, read from the files that their authors published, as a user has them on disk.

`open_benchmark("xm3600=DIR")` gives one of the classes of `sets`; `entries()` lists what is known: names, expected
files, where a set is published, languages, licence, leaks. Nothing is fetched.
"""

from babelclip.evaluate.benchmarks.catalog import Entry, benchmark_names, entries, find_entry
from babelclip.evaluate.benchmarks.opening import open_benchmark

__all__ = ["Entry", "benchmark_names", "entries", "find_entry", "open_benchmark"]
