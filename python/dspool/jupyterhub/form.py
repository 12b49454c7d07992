"""The choice of a pool and of a size, with what such a machine is and costs."""

import re
from html import escape

from traitlets import default

from .api import Away, Refused
from .errors import StartFailed
from .names import POOL_NAME


class PoolChoice:
    """The part of PoolSpawner in which people choose a machine."""

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
        offered = [(p["name"], s) for p in pools for s in sizes_of(p)]
        if len(offered) < 2:
            self._forget()
            return ""
        last = self.user_options or {}
        last = last.get("pool"), last.get("size") or ""
        of_pool = [o for o in offered if o[0] == last[0]] or offered
        return render(pools, sizes, last if last in offered else of_pool[0])

    def _forget(self):
        """Where nothing can be chosen any more, JupyterHub would repeat what was chosen before, and fail for ever
        once that is gone."""
        if self.orm_spawner is not None:
            self.orm_spawner.user_options = {}

    def _options(self, formdata, spawner=None):
        """The options of a filled form, and of a link's query: a pool and a size, either or nothing."""
        unknown = sorted(set(formdata) - {"pool", "size", "_xsrf"})
        if unknown:
            raise StartFailed(f"There is no option {unknown[0]!r}; a pool and a size can be chosen.")
        pool, size = ((formdata.get(field) or [""])[0].strip() for field in ("pool", "size"))
        pool, _, with_it = pool.partition("/")  # the form's one field says both
        chosen = {"pool": pool, "size": size or with_it}
        for what, name in chosen.items():
            if name and not re.fullmatch(POOL_NAME, name):
                raise StartFailed(f"There is no {what} {name[:64]!r}.")
        return {what: name for what, name in chosen.items() if name}

    async def _choices(self):
        pools = (await self.api.call("GET", "/pools") or {}).get("items") or []
        return choosable(pools, self.pools, self.pool)

    async def _choice_for_start(self):
        """The pool and the size to ask for. No pool is the user's own default, no size any machine of the pool."""
        options = self.user_options or {}
        pool, size = options.get("pool") or "", options.get("size") or ""
        for what, name in (("pool", pool), ("size", size)):
            if not isinstance(name, str):
                raise StartFailed(f"The chosen {what} is not a name.")
        default = self.pool or (self.pools[0] if self.pools else "")
        if not pool and not size:
            return default, ""
        offered = {p["name"]: p for p in await self._patiently("ask for its pools", self._choices)}
        if pool and pool not in offered:
            raise StartFailed(f"There is no pool {pool[:64]!r} for notebooks. Choose one of: {', '.join(offered) or 'none'}.")
        pool = pool or default
        sizes = offered.get(pool, {}).get("sizes") or []
        if size and sizes and size not in sizes:
            raise StartFailed(f"Pool {pool} has no size {size[:64]!r}. Choose one of: {', '.join(sizes)}.")
        return pool, size


def choosable(pools, named, default):
    """The pools of the API's list in which people may have a notebook server: those that are named, else
    all for people, and the default whatever it is for. The default comes first."""

    def offered(pool):
        if pool.get("runs") or pool.get("kind") == "service":
            return False
        name = pool.get("name")
        return name in named if named else name == default or pool.get("kind") == "interactive"

    return sorted((p for p in pools if offered(p)), key=lambda p: (p.get("name") != default, p.get("name")))


def sizes_of(pool):
    """The sizes among which people choose in a pool; one without a name where there is nothing to choose."""
    names = pool.get("sizes") or []
    return names if len(names) > 1 else [""]


def render(pools, sizes, chosen):
    """The form's fields. JupyterHub puts them into a form of its own, with its XSRF token. chosen is a pool and a size."""
    sizes = {s.get("name"): s for s in sizes}
    rows = []
    for pool in pools:
        name, names, note = pool["name"], sizes_of(pool), pool.get("note") or ""
        for size in names:
            # "/" and "_" are in no name: value and id are one pool's and size's alone.
            value, row = (f"{name}/{size}", f"pool-{name}_{size}") if size else (name, f"pool-{name}")
            title = f"{name}, {size}" if size else name
            checked = " checked" if (name, size) == chosen else ""
            facts = describe(pool, sizes.get(size or (pool.get("sizes") or [""])[0]))
            facts = " · ".join(f for f in (facts, "" if size else note) if f)
            rows.append(
                f'<div class="form-check mb-2"><input class="form-check-input" type="radio" name="pool"'
                f' id="{escape(row)}" value="{escape(value)}"{checked} required>'
                f'<label class="form-check-label" for="{escape(row)}"><strong>{escape(title)}</strong>'
                f" {escape(facts)}</label></div>"
            )
        if note and len(names) > 1:
            rows.append(f'<p class="form-text">{escape(name)}: {escape(note)}</p>')
    return '<fieldset><legend class="fs-5">On which machine?</legend>' + "".join(rows) + "</fieldset>"


def describe(pool, size):
    """What a person gets of a size in a pool, such as "4 cores, 16 GiB, shared by up to 4 people · 0.4 an hour"."""
    facts = []
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
    return " · ".join(parts)
