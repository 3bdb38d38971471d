"""``python -m sb3_varl.draft``."""

from sb3_varl.draft.command import main

main()
