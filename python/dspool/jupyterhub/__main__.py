"""The hub of a pool: python -m dspool.jupyterhub --port N.

Everything else comes from the environment, which the pool's server gives to this program only."""

import argparse
import os
import sys

NEEDED = [
    "DSPOOL_API_URL",
    "DSPOOL_TOKEN",
    "DSPOOL_HUB_URL",
    "DSPOOL_PORTAL_URL",
    "DSPOOL_PROXY_API",
    "DSPOOL_OAUTH_CLIENT_ID",
    "DSPOOL_OAUTH_CLIENT_SECRET",
    "CONFIGPROXY_AUTH_TOKEN",
    "JUPYTERHUB_CRYPT_KEY",
    "HOME",
]


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m dspool.jupyterhub", description="JupyterHub of a dspool. Further options are JupyterHub's own.")
    parser.add_argument("--port", type=int, required=True, help="where the hub listens")
    options, more = parser.parse_known_args(argv)
    if not 0 < options.port < 65536:
        parser.error(f"there is no port {options.port}")
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        parser.error(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: the pool's server sets them when"
            " it runs this in a pool with runs: jupyterhub"
        )
    os.environ["DSPOOL_HUB_PORT"] = str(options.port)
    os.umask(0o077)  # database and cookie secret
    os.chdir(os.environ["HOME"])
    config = os.path.join(os.path.dirname(os.path.abspath(__file__)), "config.py")
    # -P: nothing that lies in the home is imported.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "jupyterhub", "-f", config, *more])


if __name__ == "__main__":
    main()
