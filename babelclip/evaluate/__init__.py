"""Measuring: retrieval metrics, result records, tables and plots."""
