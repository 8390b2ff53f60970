"""OpenAI's own archives by OpenAI's own code (clip-anytorch 2.6.0), in the current oracle environment.

The published files are TorchScript archives in half precision with three integers among the tensors; `clip.load`
infers the sizes from the shapes. The archives here are made alike, and read by `clip.load`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
# The clip.py of this folder would hide the package of that name.
if str(Path(__file__).parent) in sys.path:
    sys.path.remove(str(Path(__file__).parent))

import tests.golden.make.torchvision_shim  # noqa: F401, I001  (first, see there)
import clip
import clip.model
import clip.simple_tokenizer
import torch

from tests.golden.inputs import TEXTS, pictures
from tests.golden.make.bpe import save_hub_files, save_merges
from tests.golden.make.common import out_folder, save_expected
from tests.golden.make.openclip import make_visible
from tests.golden.make.text_models import versions

ENVIRONMENT = "current"

CONTEXT = 32
PACKAGES = ("clip-anytorch", "torch", "torchvision")


class Archive(torch.nn.Module):
    """A CLIP with the three integers that the published archives hold beside the weights."""

    def __init__(self, model: torch.nn.Module, resolution: int) -> None:
        super().__init__()
        for name in ("visual", "transformer", "token_embedding", "ln_final"):
            setattr(self, name, getattr(model, name))
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            setattr(self, name, getattr(model, name))
        self.register_buffer("input_resolution", torch.tensor(resolution))
        self.register_buffer("context_length", torch.tensor(model.context_length))
        self.register_buffer("vocab_size", torch.tensor(model.vocab_size))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # The traced code is what no reader may run; the tensors are kept whatever it does.
        return image * self.logit_scale


@torch.no_grad()
def main() -> None:
    folder = out_folder("openai_vit")
    with tempfile.TemporaryDirectory() as place:
        tokenizer = clip.simple_tokenizer.SimpleTokenizer(bpe_path=str(save_merges(Path(place))))
    save_hub_files(folder, tokenizer.encoder, "fast")
    clip.clip._tokenizer = tokenizer
    model = clip.model.CLIP(
        embed_dim=20, image_resolution=32, vision_layers=1, vision_width=64, vision_patch_size=8,
        context_length=CONTEXT, vocab_size=len(tokenizer.encoder), transformer_width=64, transformer_heads=1,
        transformer_layers=1,
    ).eval()  # fmt: skip
    make_visible(model, seed=11)
    # One storage for two matrices keeps the file small; their biases differ.
    (seen,), (read,) = model.visual.transformer.resblocks, model.transformer.resblocks
    seen.mlp.c_fc.weight, seen.mlp.c_proj.weight = read.mlp.c_fc.weight, read.mlp.c_proj.weight
    traced = torch.jit.trace(Archive(model, 32).eval(), torch.zeros(1), check_trace=False)
    path = folder / "ViT-tiny.pt"
    torch.jit.save(traced.half(), str(path))
    loaded, transform = clip.load(str(path), device="cpu", jit=False)
    ids = clip.tokenize(TEXTS, context_length=CONTEXT, truncate=True)
    text = loaded.encode_text(ids)
    single = torch.cat([loaded.encode_text(ids[i : i + 1]) for i in range(len(TEXTS))])
    image = torch.cat([loaded.encode_image(transform(picture)[None]) for picture in pictures()])
    assert text.isfinite().all()
    assert image.isfinite().all()
    assert (text - single).abs().max() < 1e-5
    save_expected(
        folder, "clip.load(path, jit=False): encode_text, encode_image", versions(*PACKAGES),
        "TorchScript archive in half precision", text=text.numpy(), text_single=single.numpy(), image=image.numpy(),
        tokens=ids.numpy().astype("int32"), logit_scale=loaded.logit_scale.exp().numpy(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
