"""Where models that were saved by version 0.1.0 look for :mod:`sb3_varl.algorithms.guidance_buffer`."""

from sb3_varl.algorithms.guidance_buffer import GuidanceBuffer, GuidanceBufferSamples

__all__ = ["GuidanceBuffer", "GuidanceBufferSamples"]
