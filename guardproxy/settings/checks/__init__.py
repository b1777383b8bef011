"""What a configuration means: each check finds its mistakes in the tree, whatever else is wrong."""
