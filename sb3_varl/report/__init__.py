"""After training: a page about runs, and what their advice logs hold."""

from sb3_varl.report.page import write_report

__all__ = ["write_report"]
