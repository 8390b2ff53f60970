"""The names of the package multilingual-clip (and of its fork mclip-anytorch), on babelclip's readers.

    from multilingual_clip import pt_multilingual_clip                     # before
    from babelclip.compat.multilingual_clip import pt_multilingual_clip    # after

The modules Config_MCLIP, pt_multilingual_clip and legacy_multilingual_clip are named as there, and their public names
are here too. The original does not load under transformers 5. What is kept: names, signatures, un-normalised torch
float32 vectors with gradients. What differs: safetensors, sharded and TensorFlow files load too; the backbone's weights
are not fetched a second time; the pickled heads of 2021 are read without running them; tokens go to the model's device.
"""

from __future__ import annotations

from babelclip.compat.multilingual_clip.Config_MCLIP import MCLIPConfig
from babelclip.compat.multilingual_clip.legacy_multilingual_clip import AVAILABLE_MODELS, MultilingualClip, load_model
from babelclip.compat.multilingual_clip.pt_multilingual_clip import MultilingualCLIP

__all__ = ["AVAILABLE_MODELS", "MCLIPConfig", "MultilingualCLIP", "MultilingualClip", "load_model"]
