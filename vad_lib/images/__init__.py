"""Image files: what may be opened, how each kind becomes 8-bit pixels, and what can be measured on them.

Nothing here knows labels, plans or models, and nothing imports torch.
"""
