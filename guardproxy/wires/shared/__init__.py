"""The shared base of the wires: the only modules that wires import from each other."""
