"""A stub until the first step is committed."""
