"""``python -m sb3_varl.report``."""

from sb3_varl.report.page import main

main()
