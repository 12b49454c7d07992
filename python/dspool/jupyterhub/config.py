"""JupyterHub's configuration as the hub of a pool. What differs between pools comes from the environment."""

import os
from urllib.parse import urlsplit

from dspool.jupyterhub import PoolSpawner
from dspool.jupyterhub.login import PortalAuthenticator, lock_state_cookie
from dspool.jupyterhub.names import USER_NAME, subdomain
from dspool.jupyterhub.proxy import WebDoor

c = get_config()  # noqa: F821 (JupyterHub gives it)

env = os.environ
home = env["HOME"]
hub_url = env["DSPOOL_HUB_URL"].rstrip("/")
portal_url = env["DSPOOL_PORTAL_URL"].rstrip("/")
machine_door = env["DSPOOL_API_URL"].rstrip("/")
secure = urlsplit(hub_url).scheme == "https"

# Where it is: machines reach it through the machine door, browsers through the web door.
c.JupyterHub.hub_bind_url = f"http://0.0.0.0:{env['DSPOOL_HUB_PORT']}"
c.JupyterHub.hub_connect_url = machine_door.replace("//api.", "//hub.", 1)
c.JupyterHub.public_url = hub_url + "/"
c.JupyterHub.subdomain_host = hub_url
c.JupyterHub.subdomain_hook = subdomain
c.JupyterHub.cookie_host_prefix_enabled = secure
c.JupyterHub.tornado_settings = {
    "cookie_options": {"samesite": "Lax", **({"secure": True} if secure else {})},
    "slow_spawn_timeout": 0,  # the progress page at once
}
if secure:
    lock_state_cookie()

# What it keeps.
c.JupyterHub.db_url = f"sqlite:///{home}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = f"{home}/jupyterhub_cookie_secret"
c.JupyterHub.upgrade_db = True

c.JupyterHub.proxy_class = WebDoor
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = env["DSPOOL_PROXY_API"]
c.JupyterHub.last_activity_interval = 30  # also how soon a door that has lost routes gets them again

# A hub that ends or begins touches no server.
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.shutdown_on_logout = False
c.JupyterHub.init_spawners_timeout = 1

c.JupyterHub.spawner_class = PoolSpawner
c.JupyterHub.allow_named_servers = False
c.JupyterHub.concurrent_spawn_limit = 0  # the pool has a queue, which shows people their place
c.JupyterHub.active_server_limit = 0
c.Spawner.consecutive_failure_limit = 0

# The portal is the identity provider and decides who has an account.
c.JupyterHub.authenticator_class = PortalAuthenticator
c.PortalAuthenticator.login_service = "the pool"
c.PortalAuthenticator.authorize_url = f"{portal_url}/oauth/authorize"
c.PortalAuthenticator.token_url = f"{machine_door}/oauth/token"
c.PortalAuthenticator.userdata_url = f"{machine_door}/oauth/userinfo"
c.PortalAuthenticator.oauth_callback_url = f"{hub_url}/hub/oauth_callback"
c.PortalAuthenticator.client_id = env["DSPOOL_OAUTH_CLIENT_ID"]
c.PortalAuthenticator.client_secret = env["DSPOOL_OAUTH_CLIENT_SECRET"]
c.PortalAuthenticator.enable_pkce = True
c.PortalAuthenticator.username_claim = "name"
c.PortalAuthenticator.username_pattern = f"^{USER_NAME}$"
c.PortalAuthenticator.allow_all = True
c.PortalAuthenticator.auto_login = True
c.PortalAuthenticator.logout_redirect_url = f"{portal_url}/logout"
c.PortalAuthenticator.enable_auth_state = True
c.PortalAuthenticator.auth_refresh_age = 60
c.PortalAuthenticator.refresh_pre_spawn = True
