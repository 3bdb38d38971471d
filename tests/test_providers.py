"""What may not be written to a file is refused, and nothing else."""

import inspect

import pytest

from sb3_varl import VARL, AdvisorCallback, ReplayAdvisor, VLMAdvisor
from sb3_varl.metaworld import ScriptedAdvisor
from sb3_varl.redaction import refuse_secrets


def test_no_argument_of_ours_is_taken_for_a_secret():
    for function in (VLMAdvisor, AdvisorCallback, VARL, ScriptedAdvisor, ReplayAdvisor):
        refuse_secrets(dict.fromkeys(inspect.signature(function).parameters, "value"), "arguments")


@pytest.mark.parametrize(
    "configuration",
    [
        {"api_key": 1},
        {"extra_headers": {"Authorization": "x"}},
        {"hf_token": "x"},
        "dict(auth_token='hf_x')",
        ["sk-0123456789"],
        {"api_base": "http://user:word@host/v1"},
    ],
)
def test_configurations_with_secrets_are_refused(configuration):
    with pytest.raises(ValueError, match="no place for a secret"):
        refuse_secrets(configuration, "the file")
