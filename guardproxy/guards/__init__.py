"""Everything that is a `Guard`: local models, moderation services, combinations, and the verdict cache."""
