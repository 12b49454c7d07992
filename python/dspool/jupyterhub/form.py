"""The choice of a pool, with what a machine of it is and costs."""

import re
from html import escape

from traitlets import default

from .api import Away, Refused
from .errors import StartFailed
from .names import POOL_NAME


class PoolChoice:
    """The part of PoolSpawner in which people choose a pool."""

    @default("options_form")
    def _options_form_default(self):
        return self._form

    @default("options_from_form")
    def _options_from_form_default(self):
        return self._options

    async def _form(self, spawner):
        """The form's fields; none where there is nothing to choose."""
        try:
            pools, sizes = await self._choices(), (await self.api.call("GET", "/sizes") or {}).get("items") or []
        except (Away, Refused) as e:
            self.log.warning("No pools to choose from for %s: %s", self._log_name, e)
            return ""  # starting waits for the API, and says so
        if len(pools) < 2:
            return ""
        names = [p["name"] for p in pools]
        last = (self.user_options or {}).get("pool")
        return render(pools, sizes, last if last in names else names[0])

    def _options(self, formdata, spawner=None):
        """The options of a filled form, and of a link's query: a pool or nothing."""
        unknown = sorted(set(formdata) - {"pool", "_xsrf"})
        if unknown:
            raise StartFailed(f"There is no option {unknown[0]!r}; a pool can be chosen.")
        pool = (formdata.get("pool") or [""])[0].strip()
        if pool and not re.fullmatch(POOL_NAME, pool):
            raise StartFailed(f"There is no pool {pool[:64]!r}.")
        return {"pool": pool} if pool else {}

    async def _choices(self):
        pools = (await self.api.call("GET", "/pools") or {}).get("items") or []
        return choosable(pools, self.pools, self.pool)

    async def _pool_for_start(self):
        chosen = (self.user_options or {}).get("pool") or ""
        if not isinstance(chosen, str):
            raise StartFailed("The chosen pool is not a name.")
        if not chosen:
            return self.pool or (self.pools[0] if self.pools else "")
        offered = [p["name"] for p in await self._patiently("ask for its pools", self._choices)]
        if chosen not in offered:
            raise StartFailed(f"There is no pool {chosen!r} for notebooks. Choose one of: {', '.join(offered) or 'none'}.")
        return chosen


def choosable(pools, named, default):
    """The pools of the API's list in which people may have a notebook server: those that are named, else
    all for people, and the default whatever it is for. The default comes first."""

    def offered(pool):
        if pool.get("runs") or pool.get("kind") == "service":
            return False
        name = pool.get("name")
        return name in named if named else name == default or pool.get("kind") == "interactive"

    return sorted((p for p in pools if offered(p)), key=lambda p: (p.get("name") != default, p.get("name")))


def render(pools, sizes, chosen):
    """The form's fields. JupyterHub puts them into a form of its own, with its XSRF token."""
    sizes = {s.get("name"): s for s in sizes}
    rows = []
    for pool in pools:
        name = pool["name"]
        checked = " checked" if name == chosen else ""
        rows.append(
            f'<div class="form-check mb-2"><input class="form-check-input" type="radio" name="pool"'
            f' id="pool-{escape(name)}" value="{escape(name)}"{checked} required>'
            f'<label class="form-check-label" for="pool-{escape(name)}"><strong>{escape(name)}</strong>'
            f" {escape(describe(pool, sizes))}</label></div>"
        )
    return '<fieldset><legend class="fs-5">On which machine?</legend>' + "".join(rows) + "</fieldset>"


def describe(pool, sizes):
    """What a person gets of a pool, such as "4 cores, 16 GiB, shared by up to 4 people · 0.40 an hour at most"."""
    facts = []
    size = sizes.get((pool.get("sizes") or [""])[0])
    if size:
        if size.get("cpus"):
            n = size["cpus"]
            facts.append(f"{n:g} core{'' if n == 1 else 's'}")
        if size.get("memory"):
            facts.append(f"{size['memory'] / 2**30:.3g} GiB")
        if size.get("gpus"):
            n = size["gpus"]
            facts.append(f"{n} GPU{'' if n == 1 else 's'}")
    people = (pool.get("policy") or {}).get("sessions_per_machine") or 1
    if people > 1:
        facts.append(f"shared by up to {people} people")
    parts = [", ".join(facts)] if facts else []
    price = (size or {}).get("price")
    if price:
        parts.append(f"{price / people:.3g} an hour")
    if pool.get("note"):
        parts.append(pool["note"])
    return " · ".join(parts)
