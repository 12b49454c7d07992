"""Login through the pool's portal, which knows who has an account."""

import asyncio
import re

import oauthenticator.oauth2
from jupyterhub import roles
from jupyterhub.orm import APIToken, new_token
from oauthenticator.generic import GenericOAuthenticator
from tornado.httpclient import HTTPClientError
from tornado.web import HTTPError
from traitlets import default

from .names import USER_NAME

MOST_LOGINS = 50  # browsers of one person, as at the portal
LONGEST_SESSION = 64  # characters; JupyterHub's own ids have 32


def lock_state_cookie():
    """Makes the cookie that binds a login to a browser one that only the hub's own host can set, so that a
    notebook's page cannot log its reader in as somebody else. For https only: browsers refuse it elsewhere."""
    oauthenticator.oauth2.STATE_COOKIE_NAME = "__Host-oauthenticator-state"


def keep_logins(authenticator, model, before):
    """The auth_state to write: with the logins of every browser, by JupyterHub's session ids. Browsers come and
    go while others are looked at, so changes are made to what is there when it is written."""
    state = model.get("auth_state")
    if state is None:
        return None
    came, ended = state.pop("came", {}), state.pop("ended", {})
    logins = {s: t for s, t in ((before or {}).get("logins") or {}).items() if s not in came and ended.get(s) != t}
    state["logins"] = dict([*logins.items(), *came.items()][-MOST_LOGINS:])
    return state


def _session(user, handler):
    """By which browser's login a request of the user comes, and whether with the hub's own cookie. Tokens that
    people made, and those of notebook servers, are no browser's."""
    if handler is None or getattr(handler, "_jupyterhub_user", None) is not user:
        return None, False
    # JupyterHub 6.1 looks at this afterwards, and has set it for tokens only.
    handler._token_authenticated = getattr(handler, "_token_authenticated", False)
    if handler._token_authenticated:
        return handler.get_token().session_id, False
    return handler.get_session_cookie() or "none", True


class PortalAuthenticator(GenericOAuthenticator):
    """Asks the portal at login, and again from time to time whether the logins still hold."""

    @default("reconcile_auth_state_hook")
    def _reconcile_auth_state_hook_default(self):
        return keep_logins

    async def authenticate(self, handler, data=None, **kwargs):
        model = await super().authenticate(handler, data, **kwargs)
        user = handler.find_user(model["name"])
        if user is not None:
            await self._part_from_former(handler, user, model)
        session = handler.get_session_cookie()
        if not session or len(session) > LONGEST_SESSION:
            session = handler.set_session_cookie()
        model["auth_state"]["came"] = {session: model["auth_state"]["token_response"]}
        return model

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
        """Whether the portal still knows the logins: of each browser its own. While the portal does not answer,
        people keep theirs: a server that restarts logs nobody out. Where it refuses one, that browser's login
        here ends too, while the notebook server goes on with its own token."""
        state = await user.get_auth_state() or {}
        logins = state.get("logins") or {}
        try:
            models = await asyncio.gather(*(self._ask(user, t) for t in logins.values()))
        except OSError as e:
            self.log.warning("The portal does not say whether %s is still logged in: %s", user.name, e)
            return True
        live = {s: m for s, m in zip(logins, models) if m}
        ended = {s: t for s, t in logins.items() if s not in live}
        if ended or not live:
            await self._forget(user, state, ended, live)
        session, by_cookie = _session(user, handler)
        if session and session not in live:
            if not by_cookie:  # JupyterHub would let it pass this once more
                raise HTTPError(403, "The login has ended.")
            return False
        if by_cookie and ended:
            handler.set_hub_cookie(user)
        if not live:
            return False
        return live.get(session) or next(reversed(live.values()))

    async def _ask(self, user, token):
        """What the portal says of a login; None if it has ended."""
        try:
            model = await self._token_to_auth_model(token)
        except HTTPClientError:
            return None
        if model["name"] != user.name:
            self.log.error("The portal calls %s %s now", user.name, model["name"])
            return None
        return model

    async def _forget(self, user, state, ended, live):
        """Ends browsers' logins here. Who has none left at the portal is no administrator here either, as
        tokens that were made here go on: JupyterHub knows no other end of that right."""
        db = user.db
        db.query(APIToken).filter(APIToken.user_id == user.id, APIToken.session_id.in_(list(ended))).delete(
            synchronize_session=False
        )
        if ended:
            user.orm_user.cookie_id = new_token()
        if not live and user.admin:
            user.admin = False
            roles.assign_default_roles(db, entity=user.orm_user)
        db.commit()
        if ended:
            before = await user.get_auth_state()
            await user.save_auth_state(keep_logins(self, {"auth_state": {**state, "ended": ended}}, before))
            self.log.info("Ended %d logins of %s: the portal no longer knows them", len(ended), user.name)

    async def _part_from_former(self, handler, user, model):
        """An account that was removed and made anew is another person's: nothing here that was of the former
        may be theirs, nor open it."""
        before, key = await user.get_auth_state() or {}, self.user_auth_state_key
        former, now = (s.get(key, {}).get("uid") for s in (before, model["auth_state"]))
        if not before or former == now:
            return
        self.log.warning("%s has user id %s now, not %s: forgetting all that is here of the former", user.name, now, former)
        if user.active and not user.spawner.pending:
            await handler.stop_single_user(user)
        if user.active:
            raise HTTPError(503, "What is left of an account of that name is being cleared away. Try again in a minute.")
        await user.delete_spawners()
        handler.users.delete(user)
