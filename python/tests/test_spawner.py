"""PoolSpawner against an API that speaks the contract, well and badly."""

import asyncio
import json
import re
import types

import pytest
from conftest import make_spawner, play, until
from fakepool import BIG
from fakepool import pool as a_pool

from dspool.jupyterhub.errors import StartFailed


def started(spawner):
    return asyncio.ensure_future(spawner.start())


async def an_app(pool):
    await until(lambda: pool.apps)
    return max(pool.apps)


def test_asks_for_an_app_with_everything_that_the_server_needs():
    async def story(pool):
        pool.on_post = lambda app: pool.run(app["id"], "http://101.app.dspool.internal:8445")
        s = make_spawner(pool, pool="lab")
        assert await s.start() == "http://101.app.dspool.internal:8445"
        [asked] = pool.posts
        assert asked["user"] == "ada" and asked["pool"] == "lab" and asked["name"] == "jupyter"
        assert asked["command"][0] == "jupyterhub-singleuser"
        env = asked["env"]
        assert env["JUPYTERHUB_SERVICE_URL"] == "http://0.0.0.0:{port}/user/ada/"
        assert env["JUPYTERHUB_API_TOKEN"] == asked["token"] == "server-token"
        assert env["JUPYTERHUB_DEFAULT_URL"] == "/lab"
        assert "PATH" not in env
        assert asked["kernels"] == "/user/ada/api"
        assert all(isinstance(v, str) for v in env.values())
        assert await s.poll() is None

    play(story)


def test_shows_the_real_steps_with_place_and_estimate_and_a_bar_that_only_grows():
    async def story(pool):
        s = make_spawner(pool)
        start = started(s)
        app = await an_app(pool)
        events = []

        async def look():
            async for event in s.progress():
                events.append(event)

        looking = asyncio.ensure_future(look())
        pool.say(app, "pool lab is full", position=2)
        pool.say(app, "pool lab is full", position=1, estimate="2m30s")
        pool.say(app, "creating lab-3", estimate="40s")
        pool.say(app, "starting JupyterLab", "app_starting")
        await until(lambda: len([e for e in events if "message" in e]) == 4)
        pool.run(app)
        await start
        await looking
        assert [e["message"] for e in events if "message" in e] == [
            "Pool lab is full (place 2 in the queue)",
            "Pool lab is full (place 1 in the queue, about 3 min)",
            "Creating lab-3 (about 40 s)",
            "Starting JupyterLab",
            "JupyterLab is there; opening it",
        ]
        bar = [e["progress"] for e in events]
        assert bar == sorted(bar) and bar[-1] < 100
        steps = [e["progress"] for e in events if "message" in e]
        assert steps[1] <= 20 and steps[3] >= 50, "with a machine the rest is short"

    play(story)


def test_a_second_page_sees_all_steps_too():
    async def story(pool):
        s = make_spawner(pool)
        start = started(s)
        app = await an_app(pool)
        pool.say(app, "creating lab-3")
        pool.run(app)
        await start
        seen = [e["message"] async for e in s.progress() if "message" in e]
        assert seen == ["Creating lab-3", "JupyterLab is there; opening it"]

    play(story)


def test_follows_on_when_a_stream_ends_without_a_last_step():
    async def story(pool):
        pool.cut_streams = 3
        s = make_spawner(pool)
        start = started(s)
        app = await an_app(pool)
        pool.say(app, "creating lab-3")
        await until(lambda: pool.requests.count(f"GET /apps/{app}/steps") > 3)
        pool.run(app)
        await start
        seen = [e["message"] async for e in s.progress() if "message" in e]
        assert seen == ["Creating lab-3", "JupyterLab is there; opening it"], "a step is shown once"

    play(story)


def test_a_server_that_restarts_in_the_middle_is_waited_for_and_people_are_told():
    async def story(pool):
        s = make_spawner(pool)
        start = started(s)
        app = await an_app(pool)
        pool.say(app, "creating lab-3")
        await until(lambda: any("Creating" in e["message"] for e in s._progress._events))
        await pool.away()
        await until(lambda: "does not answer" in s._progress._events[-1]["message"])
        await pool.back()
        pool.run(app)
        assert await start
        assert len(pool.posts) == 1, "nothing was asked for twice"

    play(story)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_api_that_says_later_is_asked_again(status):
    async def story(pool):
        pool.fail = [(status, None), (status, {"detail": "the server starts", "code": "unavailable"})]
        pool.on_post = lambda app: pool.run(app["id"])
        assert await make_spawner(pool).start()

    play(story)


def test_a_fault_that_stays_is_told_and_not_asked_for_a_quarter_of_an_hour():
    async def story(pool):
        pool.fail = [(500, {"detail": "the server failed to do this", "code": "internal"})] * 20
        with pytest.raises(StartFailed) as e:
            await make_spawner(pool).start()
        assert "the server failed to do this" in e.value.jupyterhub_message

    play(story)


def test_a_refusal_is_told_in_the_apis_words_at_once():
    async def story(pool):
        pool.refuse_post = (403, {"detail": "ada may not use pool gold", "hint": "choose lab", "code": "forbidden"})
        s = make_spawner(pool)
        with pytest.raises(StartFailed) as e:
            await s.start()
        assert e.value.jupyterhub_message == "ada may not use pool gold (choose lab)"
        assert e.value.status_code < 500, "it is no fault of JupyterHub's"
        assert await s.poll() is not None, "there is nothing to stop"

    play(story)


def test_a_wrong_token_is_no_silence():
    async def story(pool):
        with pytest.raises(StartFailed, match="token is not valid"):
            await make_spawner(pool, token="wrong").start()

    play(story)


def test_an_app_that_ends_at_once_shows_its_last_words_and_where_its_log_is():
    async def story(pool):
        s = make_spawner(pool)
        start = started(s)
        app = await an_app(pool)
        pool.end(app, "ModuleNotFoundError: No module named 'jupyterlab'", 1)
        with pytest.raises(StartFailed) as e:
            await start
        text = e.value.jupyterhub_message
        assert "exit code 1" in text and "No module named 'jupyterlab'" in text and "jupyter.log" in text
        assert await s.poll() == 1

    play(story)


def test_a_session_that_cannot_be_had_says_why():
    async def story(pool):
        s = make_spawner(pool)
        start = started(s)
        pool.end(await an_app(pool), "pool lab was removed")
        with pytest.raises(StartFailed, match="pool lab was removed"):
            await start

    play(story)


def test_unknown_is_not_dead():
    async def story(pool):
        pool.on_post = lambda app: pool.run(app["id"])
        s = make_spawner(pool)
        await s.start()
        for answer in [(500, {}), (502, None), (404, None), (401, {"code": "unauthenticated", "detail": "no"})]:
            pool.fail = [answer]
            assert await s.poll() is None, answer
        await pool.away()
        assert await s.poll() is None
        await pool.back()
        assert await s.poll() is None

    play(story)


def test_what_has_ended_is_dead_with_its_exit_code():
    async def story(pool):
        pool.on_post = lambda app: pool.run(app["id"])
        s = make_spawner(pool)
        await s.start()
        pool.become(s.app_id, "stopping")
        assert await s.poll() is None, "it is being ended"
        pool.end(s.app_id, "out of memory (limit 1 GiB)", 137)
        assert await s.poll() == 137
        pool.apps.clear()
        assert await s.poll() == 1, "the API itself knows of no such app"

    play(story)


def test_stop_waits_until_it_has_ended_also_through_a_restart():
    async def story(pool):
        pool.on_post = lambda app: pool.run(app["id"])
        s = make_spawner(pool)
        await s.start()
        pool.fail = [(503, None)]
        await s.stop()
        assert pool.apps[s.app_id]["state"] == "ended"
        await s.stop()
        s.clear_state()
        assert await s.poll() == 0

    play(story)


def test_a_start_that_is_given_up_leaves_nothing_behind():
    async def story(pool):
        s = make_spawner(pool)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(s.start(), 0.3)
        assert await s.poll() is None
        await s.stop()
        assert [a["state"] for a in pool.apps.values()] == ["ended"]

    play(story)


def test_a_wish_whose_answer_was_lost_is_found_again():
    async def story(pool):
        s = make_spawner(pool, pool="lab")
        state = {"asked": "lab"}
        pool.post({"user": "bob", "name": "jupyter"})
        mine = pool.post({"user": "ada", "name": "jupyter", "pool": "lab"})
        s.load_state(json.loads(json.dumps(state)))
        assert await s.poll() is None
        assert s.app_id == mine["id"]

    play(story)


def test_state_survives_a_restart_of_the_hub():
    async def story(pool):
        pool.on_post = lambda app: pool.run(app["id"])
        s = make_spawner(pool)
        await s.start()
        after = make_spawner(pool)
        after.load_state(json.loads(json.dumps(s.get_state())))
        assert await after.poll() is None
        assert "token" not in json.dumps(s.get_state())

    play(story)


def test_a_hub_that_restarts_does_not_give_up_a_server_that_it_cannot_reach_yet():
    async def story(pool):
        s = make_spawner(pool)
        app = pool.post({"user": "ada", "name": "jupyter"})["id"]
        s.load_state({"app": app, "asked": ""})
        await pool.away()
        url = asyncio.ensure_future(s.get_url())
        await asyncio.wait([url], timeout=0.2)
        assert not url.done(), "the API is away"
        await pool.back()
        pool.become(app, "running", url="http://127.0.0.1:1")
        await until(lambda: pool.requests.count(f"GET /apps/{app}") > 3)
        assert not url.done(), "nobody answers there yet"
        pool.become(app, "running", url=pool.url)
        assert await url == f"{pool.url}/user/ada/"

    play(story)


def test_a_hub_that_restarts_does_not_wait_for_a_server_that_has_ended():
    async def story(pool):
        s = make_spawner(pool)
        app = pool.post({"user": "ada", "name": "jupyter"})["id"]
        s.load_state({"app": app, "asked": ""})
        pool.end(app, "its machine vanished")
        assert await s.get_url()
        assert s.http_timeout == 1

    play(story)


def test_a_pool_is_chosen_from_those_for_people_with_their_prices():
    async def story(pool):
        pool.sizes.append(BIG)
        pool.pools += [
            a_pool("gold", price_size="big", people=1),
            a_pool("nightly", kind="batch"),
            a_pool("hub", kind="service", runs="jupyterhub"),
        ]
        s = make_spawner(pool, pool="lab")
        text = await s.get_options_form()
        assert "2 cores, 4 GiB, shared by up to 4 people · 0.1 an hour" in text
        assert "16 cores, 64 GiB, 1 GPU · 3 an hour" in text
        assert "nightly" not in text and 'value="hub"' not in text
        assert text.index('value="lab" checked') < text.index('value="gold"'), "the default comes first"
        s.user_options = s.run_options_from_form({"pool": ["gold"], "_xsrf": ["x"]})
        pool.on_post = lambda app: pool.run(app["id"])
        await s.start()
        assert pool.posts[0]["pool"] == "gold"

    play(story)


def of_two_sizes(pool, **more):
    pool.sizes.append(BIG)
    pool.pools = [a_pool("lab", sizes=["small", "big"], **more)]


def test_a_size_is_chosen_from_those_of_a_pool_with_their_prices():
    async def story(pool):
        of_two_sizes(pool, note="2 machines <start>")
        pool.pools.append(a_pool("gold", people=1, note="one is free"))
        s = make_spawner(pool, pool="lab")
        text = await s.get_options_form()
        rows = dict(re.findall(r'<input [^>]* value="([^"]+)"[^>]*><label[^>]*>(.*?)</label>', text))
        assert rows == {
            "lab/small": "<strong>lab, small</strong> 2 cores, 4 GiB, shared by up to 4 people · 0.1 an hour",
            "lab/big": "<strong>lab, big</strong> 16 cores, 64 GiB, 1 GPU, shared by up to 4 people · 0.75 an hour",
            "gold": "<strong>gold</strong> 2 cores, 4 GiB · 0.4 an hour · one is free",
        }
        assert text.count("lab: 2 machines &lt;start&gt;") == 1, "what is so of the pool is said once"
        ids, labelled = re.findall(r' id="([^"]+)"', text), re.findall(r' for="([^"]+)"', text)
        assert ids == labelled == ["pool-lab_small", "pool-lab_big", "pool-gold"]
        assert re.findall(r'value="([^"]+)" checked', text) == ["lab/small"]
        s.user_options = s.run_options_from_form({"pool": ["lab/big"], "_xsrf": ["x"]})
        assert s.user_options == {"pool": "lab", "size": "big"}
        assert re.findall(r'value="([^"]+)" checked', await s.get_options_form()) == ["lab/big"], "the last choice"
        pool.on_post = lambda app: pool.run(app["id"])
        await s.start()
        assert (pool.posts[0]["pool"], pool.posts[0]["size"]) == ("lab", "big")

    play(story)


@pytest.mark.parametrize(
    "query, asked",
    [
        ({"pool": ["lab"], "size": ["big"]}, ("lab", "big")),
        ({"size": ["big"]}, ("lab", "big")),
        ({"pool": ["lab"]}, ("lab", None)),
        ({}, ("lab", None)),
    ],
)
def test_a_link_names_pool_and_size_either_or_nothing(query, asked):
    async def story(pool):
        of_two_sizes(pool)
        pool.on_post = lambda app: pool.run(app["id"])
        s = make_spawner(pool, pool="lab")
        s.user_options = s.options_from_query(query)
        await s.start()
        assert (pool.posts[0].get("pool"), pool.posts[0].get("size")) == asked

    play(story)


def test_a_size_that_the_pool_has_not_is_refused():
    async def story(pool):
        of_two_sizes(pool)
        for options in ({"pool": "lab", "size": "huge"}, {"size": "huge"}):
            s = make_spawner(pool, pool="lab")
            s.user_options = options
            with pytest.raises(StartFailed) as e:
                await s.start()
            assert e.value.jupyterhub_message == "Pool lab has no size 'huge'. Choose one of: small, big."
        assert not pool.posts

    play(story)


def test_a_session_on_another_size_is_told_in_the_apis_words():
    async def story(pool):
        of_two_sizes(pool)
        said, hint = "your session in pool lab is on lab-1, of size small", "end it first, or leave the size out"
        pool.refuse_post = (409, {"detail": said, "hint": hint, "code": "conflict"})
        s = make_spawner(pool, pool="lab")
        s.user_options = {"pool": "lab", "size": "big"}
        with pytest.raises(StartFailed) as e:
            await s.start()
        assert e.value.jupyterhub_message == f"{said} ({hint})"
        assert await s.poll() is not None, "there is nothing to stop"

    play(story)


def test_a_choice_of_former_days_binds_nobody_where_there_is_none_any_more():
    async def story(pool):
        s = make_spawner(pool)
        s.orm_spawner = types.SimpleNamespace(name="", server=None, state=None, user_options={"pool": "lab", "size": "big"})
        await pool.away()
        assert await s.get_options_form() == "" and s.orm_spawner.user_options, "who does not know forgets nothing"
        await pool.back()
        assert await s.get_options_form() == "" and not s.orm_spawner.user_options

    play(story)


def test_no_form_where_there_is_nothing_to_choose():
    async def story(pool):
        assert await make_spawner(pool).get_options_form() == ""
        await pool.away()
        assert await make_spawner(pool).get_options_form() == ""
        await pool.back()

    play(story)


@pytest.mark.parametrize("chosen", ["hub", "nightly", "nowhere"])
def test_a_pool_that_was_not_offered_is_refused(chosen):
    async def story(pool):
        pool.pools += [a_pool("nightly", kind="batch"), a_pool("hub", kind="service", runs="jupyterhub")]
        s = make_spawner(pool)
        s.user_options = {"pool": chosen}
        with pytest.raises(StartFailed, match="Choose one of: lab"):
            await s.start()
        assert not pool.posts

    play(story)


@pytest.mark.parametrize("form", [{"pool": ["../x"]}, {"pool": ["<b>"]}, {"image": ["evil"]}, {"size": ["../x"]}, {"pool": ["lab/<b>"]}, {"pool": ["lab/a/b"]}])
def test_options_that_are_none_are_refused(form):
    async def story(pool):
        with pytest.raises(StartFailed):
            make_spawner(pool).run_options_from_form(form)

    play(story)


def test_a_pool_without_a_web_door_says_so():
    async def story(pool):
        pool.on_post = lambda app: pool.run(app["id"], "")
        with pytest.raises(StartFailed, match="web door"):
            await make_spawner(pool).start()

    play(story)


def test_a_hub_of_the_pools_own_host_may_go_straight_to_the_machine():
    async def story(pool):
        pool.on_post = lambda app: pool.become(app["id"], "running", machine="lab-1", port=4711, url="http://1.app.dspool.internal:8445")
        assert await make_spawner(pool, app_url="http://{address}:{port}").start() == "http://10.80.0.7:4711"

    play(story)


def test_named_servers_are_apps_of_their_own_and_odd_names_are_refused():
    async def story(pool):
        pool.on_post = lambda app: pool.run(app["id"])
        s = make_spawner(pool)
        s.orm_spawner = types.SimpleNamespace(name="gpu-work", server=None, state=None)
        s._server = None
        assert s._app_name() == "jupyter-gpu-work"
        for name in ["../x", "A B", "x" * 25]:
            s.orm_spawner.name = name
            with pytest.raises(StartFailed, match="cannot be called"):
                s._app_name()

    play(story)


def test_text_of_steps_is_one_printable_line():
    async def story(pool):
        s = make_spawner(pool)
        start = started(s)
        app = await an_app(pool)
        pool.say(app, "starting\x1b[31m\n<script>")
        pool.run(app)
        await start
        first = [e async for e in s.progress()][0]
        assert first["message"] == "Starting [31m <script>" and "html_message" not in first, "JupyterHub escapes it"

    play(story)
