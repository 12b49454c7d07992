"""Login through the pool's portal, which knows who has an account."""

import re

import oauthenticator.oauth2
from jupyterhub.orm import APIToken, new_token
from oauthenticator.generic import GenericOAuthenticator
from tornado.httpclient import HTTPClientError
from tornado.web import HTTPError

from .names import USER_NAME


def lock_state_cookie():
    """Makes the cookie that binds a login to a browser one that only the hub's own host can set, so that a
    notebook's page cannot log its reader in as somebody else. For https only: browsers refuse it elsewhere."""
    oauthenticator.oauth2.STATE_COOKIE_NAME = "__Host-oauthenticator-state"


class PortalAuthenticator(GenericOAuthenticator):
    """Asks the portal at login, and again from time to time whether the login still holds."""

    async def update_auth_model(self, auth_model):
        claims = auth_model["auth_state"][self.user_auth_state_key]
        name = claims.get(self.username_claim)
        if not isinstance(name, str) or not re.fullmatch(USER_NAME, name) or auth_model["name"] != name:
            raise HTTPError(403, "The portal's answer names no account of the pool.")
        auth_model["admin"] = claims.get("admin") is True
        return auth_model

    async def token_to_user(self, token_info):
        """Only the portal's own words end a login: any other answer is a door's, or one of a server that starts."""
        try:
            return await super().token_to_user(token_info)
        except HTTPClientError as e:
            if e.code in (401, 403):
                raise
            raise ConnectionError(f"the portal answers HTTP {e.code}") from e

    async def refresh_user(self, user, handler=None, **kwargs):
        """Whether the portal still knows the login. While it does not answer, people keep theirs: a server
        that restarts logs nobody out. When it refuses, every browser's login here ends too, while
        the notebook server goes on with its own token."""
        try:
            model = await super().refresh_user(user, handler, **kwargs)
        except OSError as e:
            self.log.warning("The portal does not say whether %s is still logged in: %s", user.name, e)
            return True
        if not model:
            self._forget_browsers(user, handler)
        elif isinstance(model, dict) and model["name"] != user.name:
            self.log.error("The portal calls %s %s now", user.name, model["name"])
            self._forget_browsers(user, handler)
            return False
        return model

    def _forget_browsers(self, user, handler):
        token = handler.get_token() if handler is not None else None
        by_browser = token is not None and bool(token.session_id)
        db = user.db
        db.query(APIToken).filter(APIToken.user_id == user.id, APIToken.session_id.is_not(None)).delete(
            synchronize_session=False
        )
        user.orm_user.cookie_id = new_token()
        db.commit()
        self.log.info("Logged %s out: the portal no longer knows the login", user.name)
        if by_browser:
            raise HTTPError(403, "The login has ended.")
