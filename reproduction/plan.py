"""What a computation of the paper's size costs: its FLOPs, and the days that one A100 takes for them."""

from __future__ import annotations

A100_FLOPS = 312e12  # a second, of bfloat16 products (NVIDIA's data sheet)
USED = 0.4  # of that, in a well tuned training run


BASIS = f"An A100 day is one at {USED:.0%} of the peak of {A100_FLOPS / 1e12:.0f} TFLOP/s in bfloat16."


def cost(flops: float) -> str:
    """Return FLOPs with the time that they take; the report says on what (`BASIS`)."""
    days = flops / (A100_FLOPS * USED) / 86400
    size = f"{flops / 1e18:,.0f} EFLOP" if flops >= 1e18 else f"{flops / 1e15:,.1f} PFLOP"
    return f"{size}, {days:,.0f} A100 days" if days >= 2 else f"{size}, {24 * days:,.1f} A100 hours"
