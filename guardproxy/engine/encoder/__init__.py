"""Classifiers: encoders read for the logits of their class head."""
