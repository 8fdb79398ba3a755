"""The hostile battery: what `rlagents doctor --attack` runs against a tier on the user's machine."""
