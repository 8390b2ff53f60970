"""Lets the torchvision of the package index import beside a CPU torch: to be imported first.

Its binary links CUDA, so two operators are missing; their schemas are enough for transforms, timm and open_clip.
"""

import torch

# Kept alive by the module: the schemas vanish with the object.
LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
