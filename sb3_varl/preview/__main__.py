"""``python -m sb3_varl.preview``."""

from sb3_varl.preview.command import main

main()
