"""Drop-in modules with the names of older packages, so that their users change one import."""
