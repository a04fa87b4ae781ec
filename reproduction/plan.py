"""What a computation of the paper's size costs, as its FLOPs, and the time that they take on a GPU."""

from __future__ import annotations

A100_FLOPS = 312e12  # a second, of bfloat16 products (NVIDIA's data sheet)
USED = 0.4  # of that, in a well tuned training run


def cost(flops: float) -> str:
    """Return FLOPs with the A100 days that they take where 40 % of the peak is used."""
    days = flops / (A100_FLOPS * USED) / 86400
    size = f"{flops / 1e18:,.0f} EFLOP" if flops >= 1e18 else f"{flops / 1e15:,.1f} PFLOP"
    time = f"{days:,.0f} days" if days >= 2 else f"{24 * days:,.1f} hours"
    return f"{size}, {time} of one A100 at 40 % of its peak"
