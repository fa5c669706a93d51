"""The ten rows that every contender reads."""
