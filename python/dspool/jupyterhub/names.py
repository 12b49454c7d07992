"""Names of people as names of hosts."""

import hashlib
import re

# The server's own rule for names; all of them are labels of host names.
USER_NAME = r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?"
POOL_NAME = APP_NAME = USER_NAME


def subdomain(name, domain, kind):
    """The host of a user's notebook server: the name itself before the hub's. JupyterHub's own hook puts 28
    bits of a hash for a name with "--" in it, so two such names could be made to share an origin. Only what browsers
    would read as punycode cannot stand for itself; its label begins with a digit, which no name does."""
    if kind != "user" or not re.fullmatch(USER_NAME, name):
        raise ValueError(f"a {kind} called {name!r} has no host of its own")
    if name.startswith("xn--"):
        return f"0{hashlib.sha256(name.encode()).hexdigest()[:40]}.{domain}"
    return f"{name}.{domain}"
