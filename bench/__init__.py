"""`make bench`: Tollway against what does the same job, in ratios, in one run."""
