"""Before training: what an advisor is shown, what asking costs, and whether the answers mean something."""

from sb3_varl.preview.page import Preview, preview

__all__ = ["Preview", "preview"]
