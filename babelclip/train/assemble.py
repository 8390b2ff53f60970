"""A whole CLIP from a student that has learned pooled vectors: AltCLIP's stage 1.

The student answers what enters the teacher's text projection, so it takes the place of the teacher's text body: the
teacher's own projection, picture tower and temperature stay (Chen et al., arXiv 2211.06679, section 3.1). A student
with `pooling = "cls"` and `head = "norm+linear"` on XLM-R then is an AltCLIP, and exports as one.
"""

from __future__ import annotations

import copy

import torch

from babelclip.data.embed_targets import target_dim
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.head import projection_start
from babelclip.models.text import TextEncoder


def assemble(student: TextEncoder, teacher: Clip, *, languages: tuple[str, ...] = (), name: str = "") -> Clip:
    """Returns the student with the teacher's text projection behind it, and the teacher's picture tower beside it.

    Args:
        student: gives the teacher's `pooled` vector; it is shared, not copied.
        teacher: has its text tower; the picture tower may be absent.
        languages: of the new model (BCP-47).
        name: of the new model.

    Raises:
        BabelclipError: the teacher has no text tower, or the student another dimension than its pooled vector.
    """
    tower = teacher.text
    if tower is None:
        raise BabelclipError(
            f"{teacher.name or 'The teacher'} was loaded without its text tower, whose projection the student needs. "
            'Load it with towers="both".'
        )
    pooled = target_dim(tower, "pooled")
    if student.embed_dim != pooled:
        raise BabelclipError(
            f"the student projects to {student.embed_dim} but the teacher's projection takes {pooled}: "
            f"train it on pooled targets of this teacher, with embed_dim = {pooled} in [student]."
        )
    start = projection_start(tower.head_layers)
    specs = [*student.head_layers, *copy.deepcopy(tower.head_layers[start:])]
    text = TextEncoder(student.backbone, pooling=student.pooling, head=specs, tokenizer=student.tokenizer)
    parts = [*student.head.children(), *list(tower.head.children())[start:]]
    for own, given in zip(text.head.children(), parts, strict=True):
        own.load_state_dict({key: tensor.float() for key, tensor in given.state_dict().items()})
    text.to(next(student.parameters()).device, torch.float32)
    return Clip(
        space=teacher.space,
        text=text.eval(),
        image=teacher.image,
        logit_scale=teacher.logit_scale,
        logit_bias=teacher.logit_bias,
        languages=languages,
        name=name,
        attribution=teacher.attribution,
    )
