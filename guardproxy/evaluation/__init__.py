"""Evaluation: labelled data in, measures of a guard and thresholds for a policy out."""
