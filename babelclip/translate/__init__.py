"""Captions into other languages: engines behind one protocol, the table of languages, and the pipeline over both."""
