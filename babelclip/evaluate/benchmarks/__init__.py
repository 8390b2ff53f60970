"""Benchmarks of the field, read from the files that their authors published, as a user has them on disk."""
