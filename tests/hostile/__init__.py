"""A memory server that lies, stalls and breaks off, and what our client makes of it."""
