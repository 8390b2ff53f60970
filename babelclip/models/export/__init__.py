"""Writers: one for each layout that other programs read."""
