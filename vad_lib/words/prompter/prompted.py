"""A language model with the prompts that were learnt for it: kept in a folder, and asked about images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vad_lib.detectors.anomalygpt.network import ImageDecoder
from vad_lib.detectors.storage import read_model_folder, write_model_folder
from vad_lib.encoders.encoder import create_encoder
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import ModelFormatError
from vad_lib.preprocessing import Preprocessing
from vad_lib.words.prompter.dialogue import QUESTION
from vad_lib.words.prompter.language_model import LanguageModel
from vad_lib.words.prompter.network import MapPrompter, PromptNetwork


class Prompted:
    """Answers questions about images.

    Args:
        network: makes the prompt of an image.
        layers: of the network's encoder.
        preprocessing: brings an image to its size.
        language_model: that the prompts are for.
    """

    def __init__(
        self,
        network: PromptNetwork,
        layers: Sequence[str],
        preprocessing: Preprocessing,
        language_model: LanguageModel,
    ) -> None:
        self.network = network.to(language_model.device).eval()
        self.layers = tuple(layers)
        self.preprocessing = preprocessing
        self.language_model = language_model

    def answer(self, picture: Image.Image, question: str = QUESTION) -> str:
        """Return what the language model says about a picture of any size.

        Raises:
            InputError: the question is too long.
        """
        image, _, vectors = self._look_at(picture)
        return self.language_model.answer(as_picture(image), question, vectors)

    def map_of(self, picture: Image.Image) -> npt.NDArray[np.float32]:
        """Return the map of a picture, (H, W) in 0..1 at the size that the network sees."""
        _, found, _ = self._look_at(picture)
        return found.cpu().numpy()

    def ask(self, pictures: Sequence[Image.Image], text: str) -> str:
        """Answer about the last of several pictures, as an evaluation asks; the others are not looked at."""
        return self.answer(pictures[-1], text)

    @torch.no_grad()
    def _look_at(self, picture: Image.Image) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the prepared image (3, H, W), its map (H, W) and its vectors (n, width)."""
        image = self.preprocessing.prepare(np.asarray(picture.convert("RGB")))
        levels, vectors = self.network(image[None].to(self.language_model.device))
        return image, torch.stack(levels).mean(0)[0], vectors[0]

    def save(self, folder: Path, history: Mapping[str, Any]) -> None:
        """Write ``model.safetensors`` and ``detector.json``: the encoder and what was learnt, no language model.

        Args:
            folder: made where absent.
            history: how it was learnt; plain JSON.
        """
        about = {
            "language_model": self.language_model.name,
            "fingerprint": self.language_model.fingerprint,
            "backbone": self.network.encoder.weights.to_json(),
            "layers": list(self.layers),
            "stages": self.network.prompter.stages_count,
            "preprocessing": self.preprocessing.to_json(),
        }
        write_model_folder(folder, self.network.state_dict(), {"prompter": about, "history": dict(history)})

    @classmethod
    def load(cls, folder: Path, language_model: LanguageModel) -> Self:
        """Read what ``save`` wrote; nothing is unpickled.

        Raises:
            ModelFormatError: the folder is damaged, holds something else, or belongs to another language model.
        """
        tensors, content = read_model_folder(folder)
        try:
            about: dict[str, Any] = content["prompter"]
            fits, name = about["fingerprint"] == language_model.fingerprint, about["language_model"]
        except KeyError as error:
            raise ModelFormatError(f"{folder} holds a model, but no learnt prompts.") from error
        if not fits:
            raise ModelFormatError(
                f"The prompts in {folder} were learnt for the language model {name}; {language_model.name} has other "
                "words. Learn prompts for it."
            )
        try:
            encoder = create_encoder(BackboneWeights.from_json(about["backbone"]), about["layers"], text=False)
            channels = [len(tensors[f"decoder.levels.{level}.mean"]) for level in range(len(about["layers"]))]
            decoder = ImageDecoder(channels, tensors["decoder.vectors"], learnt=False)
            prompter = MapPrompter(language_model.width, stages=about["stages"], base=len(tensors["prompter.base"]))
            network = PromptNetwork(encoder, decoder, prompter)
            network.load_state_dict(tensors)
        except (KeyError, RuntimeError, TypeError) as error:
            raise ModelFormatError(f"The tensors in {folder} are not those of learnt prompts: {error}") from error
        return cls(network, about["layers"], Preprocessing.from_json(about["preprocessing"]), language_model)


def as_picture(image: torch.Tensor) -> Image.Image:
    """Return an image (3, H, W) in 0..1 as a picture."""
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
