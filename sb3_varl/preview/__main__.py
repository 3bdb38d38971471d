"""``python -m sb3_varl.preview``."""

from sb3_varl.preview.page import main

main()
