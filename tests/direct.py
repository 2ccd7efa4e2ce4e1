"""How the tests' httpx reaches a server on this machine."""

import ssl
from typing import Any

DIRECT: dict[str, Any] = {"trust_env": False, "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}
"""Without a proxy of the environment, and without the certificates of the world's authorities:
each client would read them anew, which takes 40 ms, and no server of the tests needs one."""
