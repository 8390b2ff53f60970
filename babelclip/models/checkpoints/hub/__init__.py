"""Models of the hub: `repository.py` is the way in."""
