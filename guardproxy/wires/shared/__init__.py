"""What the wires have in common; the only module that they share."""
