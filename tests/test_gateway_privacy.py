"""A text reaches only experts that serve its data class, whatever the way there."""

from contextlib import suppress

import openai
import pytest

from test_gateway import create, pieces, served
from upstream import Upstream, status

RESTRICTED = {"extra_body": {"routewright": {"data_class": "restricted"}}}
LOCAL = {"data_classes": ["public", "restricted"], "retries": 0}
CLOUD = {"data_classes": ["public"]}

POLICIES = {
    "fixed": {"strategy": "fixed", "options": {"expert": "large"}},
    "fallback": {"strategy": "fixed", "options": {"expert": "small"}, "fallback": ["large"]},
    "up": {"strategy": "cascade", "options": {"ladder": ["small", "large"]}},
    "down": {"strategy": "cascade", "options": {"ladder": ["large", "small"]}},
}


@pytest.mark.parametrize("how", [create, pieces])
@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("model", [*POLICIES, "large", "small", "auto"])
def test_a_restricted_query_never_leaves_the_machine(model, failing, how):
    local = Upstream(says="incorrect", faults=[status(500)] * 9 if failing else [])
    cloud = Upstream()
    with suppress(openai.UnprocessableEntityError, openai.InternalServerError):
        served(how(model, **RESTRICTED), local, cloud, traits=(LOCAL, CLOUD), policies=POLICIES)
    assert cloud.requests == 0


def test_a_public_query_may_leave_the_machine():
    local, cloud = Upstream(says="incorrect"), Upstream()
    served(create("up"), local, cloud, traits=(LOCAL, CLOUD), policies=POLICIES)
    assert cloud.requests == 1


def test_the_class_of_a_query_that_names_none_is_the_servers():
    cloud = Upstream()
    with pytest.raises(openai.UnprocessableEntityError):
        served(create(), cloud, server={"default_data_class": "internal"})
    assert cloud.requests == 0


def test_the_same_holds_for_a_region():
    here, abroad = Upstream(says="incorrect"), Upstream()
    traits = ({"region": "eu"}, {"region": "us"})
    limits = {"extra_body": {"routewright": {"region": "eu"}}}
    answer = served(create("up", **limits), here, abroad, traits=traits, policies=POLICIES)
    assert answer.model == "small"
    assert abroad.requests == 0
