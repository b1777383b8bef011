"""Everything that is a `Guard`: local engines, moderation services, combinations, and the verdict cache."""
