"""`comfy.ldm.modules.attention`: the attention that a user's settings choose; minihost has torch's own."""

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def optimized_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **options: Any
) -> Tensor:
    """Attention of q [B,N,H*D] over k, v [B,M,H*D]."""
    q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h n d -> b n (h d)")
