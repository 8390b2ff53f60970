"""Texts in a hundred languages from package indexes, and how the starter's student is taught them in earnest."""
