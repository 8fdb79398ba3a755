"""The program that keeps a command without namespaces; see `__main__`."""
