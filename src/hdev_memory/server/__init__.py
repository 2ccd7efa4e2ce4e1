"""The memory server: an ASGI app over any backend, speaking the existing system's dialect."""
