"""The claims of the RWKV-4 paper (arxiv.org/abs/2305.13048), each measured and judged by a command."""
