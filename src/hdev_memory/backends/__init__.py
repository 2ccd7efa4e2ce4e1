"""Where entries live: one table of backends, and the function that opens one."""
