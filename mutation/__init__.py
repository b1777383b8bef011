"""Mutation testing: change the source in small ways and count the changes that no test notices."""
