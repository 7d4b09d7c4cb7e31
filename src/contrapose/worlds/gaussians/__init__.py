"""A world with known answers: the paper's 2-D toy (arXiv 2512.23426, section 4.1), where each condition is one mode.

A small conditional denoiser, the reference, is trained on noisy data: modes are blurred and a share of each one's
points comes from its neighbour's mode. A few pairs from the clean modes, winner from class c and loser from its
neighbour c-, then align it: Diffusion-DPO with the pairs as they are, DDSPO with c- as the degraded prompt.

The paper gives neither modes nor network nor schedule, so all of that is our choice; see `Toy`.
"""
