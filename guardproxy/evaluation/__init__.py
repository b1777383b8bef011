"""Evaluation: measures of a guard, and thresholds for a policy, from labelled data."""
