"""What goes over the wire."""

from ipvs_api.directorgroup import DirectorGroupStatus
from ipvs_api.meta import Condition, ConditionStatus, ObjectMeta
from ipvs_operator.writer import body
from ipvs_planner.writes import Verb, Write


def test_a_condition_without_words_says_so_or_those_of_the_definitions_default_would_stay() -> None:
    status = DirectorGroupStatus(conditions=(Condition("Ready", ConditionStatus.TRUE, "Accepted"),))
    sent = body(Write(Verb.STATUS, "DirectorGroup", ObjectMeta("default", uid="1"), status=status))
    assert sent["status"]["conditions"][0]["message"] == ""
