"""Training code of the embedded guard; not part of the installed package."""
