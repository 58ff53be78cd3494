"""What items look like: content vectors, where they come from, and how they lead into the item space."""
