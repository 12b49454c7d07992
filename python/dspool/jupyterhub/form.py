"""The choice of a pool, with what a machine of it is and costs."""

from html import escape


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
