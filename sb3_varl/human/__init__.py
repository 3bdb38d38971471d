"""A person as advisor, on a web page of this machine."""

from sb3_varl.human.advisor import HumanAdvisor

__all__ = ["HumanAdvisor"]
