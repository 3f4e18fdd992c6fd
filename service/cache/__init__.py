"""Where answers are kept, by content."""
