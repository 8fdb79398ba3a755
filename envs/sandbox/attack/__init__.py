"""The hostile battery that `rlagents doctor --attack` runs on the user's machine."""
