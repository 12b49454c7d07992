"""Names of hosts, durations and sentences."""

import pytest

from dspool.jupyterhub.api import seconds
from dspool.jupyterhub.names import subdomain
from dspool.jupyterhub.progress import Progress, about, sentence


@pytest.mark.parametrize("name", ["a", "ada", "ada-l", "a--b", "x9", "u-ab--1234567", "a" * 32])
def test_a_users_host_is_the_name_itself(name):
    assert subdomain(name, "hub.example.com", "user") == name + ".hub.example.com"


def test_a_name_that_browsers_would_decode_has_a_label_that_is_nobody_elses():
    label, _, domain = subdomain("xn--a", "hub.example.com", "user").partition(".")
    assert label[0].isdigit() and label != subdomain("xn--b", "x", "user").partition(".")[0]
    assert domain == "hub.example.com" and len(label) < 64


@pytest.mark.parametrize("name", ["", "Ada", "ada.bob", "-a", "a-", "a_b", "ada\n", "é", "a" * 33, "0abc"])
def test_what_is_no_name_of_a_user_has_no_host(name):
    with pytest.raises(ValueError):
        subdomain(name, "hub.example.com", "user")


def test_services_have_no_host_that_a_user_could_be_called():
    with pytest.raises(ValueError):
        subdomain("x", "hub.example.com", "service")


@pytest.mark.parametrize(
    "text, expected", [("40s", 40), ("1m30s", 90), ("2h", 7200), ("1d12h", 129600), ("1.5s", 1.5), ("250ms", 0.25), ("", 0), (None, 0), (7, 0)]
)
def test_durations_are_read_as_the_api_writes_them(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("estimate, words", [(1, "5 s"), (41, "45 s"), (89, "90 s"), (90, "2 min"), (601, "11 min")])
def test_estimates_are_said_as_people_do(estimate, words):
    assert about(estimate) == words


def test_no_words_no_line():
    assert sentence({"text": ""}, 3, 40) == ""


def test_the_bar_follows_the_estimate_and_stays_low_in_a_queue():
    now = 0.0
    p = Progress(clock=lambda: now)
    p.step("full", position=1)
    now = 600.0
    assert p.percent() == 19
    p.step("starting", estimate=600)
    assert p.percent() == 47
    now = 1190.0
    assert 90 <= p.percent() <= 95
    p.step("starting", estimate=600)
    assert p.percent() >= 90, "it never goes back"
    now = 9999.0
    assert p.percent() == 95
