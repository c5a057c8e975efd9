"""Host: what this machine is, what it has left, and what is wrong with it."""
