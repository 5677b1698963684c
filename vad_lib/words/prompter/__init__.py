"""A local language model is told by a map where to look: the prompt learner of AnomalyGPT's structure.

An image decoder makes a map of an image, a small network turns the map into a few vectors, and these stand in the
prompt like words. Decoder and small network learn; encoder and language model stay as they are.

Written from the paper: Gu et al., "AnomalyGPT: Detecting Industrial Anomalies Using Large Vision-Language Models",
AAAI 2024, https://arxiv.org/abs/2308.15366. Neither code nor weights of the authors are used.

What a prompted model says is never a decision: detectors decide.
"""
