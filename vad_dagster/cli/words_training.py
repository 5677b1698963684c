"""``vad describe train-prompter`` and ``ask-local``: prompts that are learnt for a local language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vad_dagster.cli.console import console, new_table, shown_progress
from vad_dagster.cli.lines import existing_line
from vad_lib.errors import InputError

if TYPE_CHECKING:
    from vad_lib.lines import Line
    from vad_lib.words.prompter.prompted import Prompted

LineName = Annotated[str, typer.Argument(help="Name of the line.")]
ModelFolder = Annotated[
    Path, typer.Option("--model", help="Folder of a language model in the form of transformers, with safetensors.")
]
PrompterFolder = Annotated[
    Path | None, typer.Option("--prompter", help="Folder of learnt prompts. Default: 'prompter' in the line's folder.")
]


def train_prompter(
    name: LineName,
    model: ModelFolder,
    out: PrompterFolder = None,
    encoder: Annotated[str, typer.Option(help="A timm model, file or folder; default: that of anomalygpt.")] = "",
    preset: Annotated[str, typer.Option(help="Passes over the images, and images in a step: 15-8, 15-16, 20-16.")] = (
        "15-8"
    ),
    size: Annotated[int, typer.Option(min=16, help="Pixels of a side of the pictures.")] = 224,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn at random.")] = 42,
) -> None:
    """Teach a local language model to look where the image decoder looks: prompts are learnt, the model stays as it is.

    The normal images of the line are shown as they are and with drawn defects. Ctrl-C stops it and writes nothing.
    """
    from vad_dagster.plans import plan_of, rows_of_next_training
    from vad_lib.detectors.anomalygpt.plan_arguments import AnomalyGPTArguments
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.encoders.weights import resolve_backbone_weights
    from vad_lib.metrics import interval
    from vad_lib.preprocessing import Preprocessing
    from vad_lib.training import grey_bits_of
    from vad_lib.words.prompter.language_model import LanguageModel
    from vad_lib.words.prompter.training import PRESETS
    from vad_lib.words.prompter.training import train_prompter as learn

    line = existing_line(name)
    if preset not in PRESETS:
        raise InputError(f"--preset {preset}: there are {', '.join(PRESETS)}.")
    folder = out or line.folder / "prompter"
    with shown_progress(f"prompts of {line.name}") as show:
        plan = plan_of(line)
        dataset = rows_of_next_training(line, plan, show)
        weights = resolve_backbone_weights(encoder or AnomalyGPTArguments().anomalygpt_encoder)
        language_model = LanguageModel(model, plan.train.accelerator)
        preprocessing = Preprocessing((size, size), grey_bits_of(dataset.image_facts))
        images = ImageDataset.from_rows(dataset.train_rows, preprocessing)
        trained = learn(images, weights, language_model, PRESETS[preset], seed=seed, progress=show)
    trained.save(folder)
    table = new_table(">pass", ">loss of words", ">loss of map", ">seconds", title=f"Prompts for {language_model.name}")
    for one in trained.passes:
        table.add_row(str(one.number), f"{one.words_loss:.3f}", f"{one.map_loss:.3f}", f"{one.seconds:.1f}")
    console.print(table)
    found = trained.check
    low, high = interval(found.right, 2 * found.of)
    console.print(
        f"Of {2 * found.of} answers about images that were held back, half of them with a drawn defect, {found.right} "
        f"say rightly yes or no ({low:.0%} to {high:.0%}). {found.places} of {found.of} name the right place; a "
        f"sentence that is made from the map alone names {found.places_by_map}.",
        markup=False,
    )
    if weights.is_fallback:
        console.print(f"The encoder is {weights.name}, in place of {weights.asked_for}.", style="yellow", markup=False)
    console.print(f"{folder}", markup=False)


def ask_local(
    name: LineName,
    image: Annotated[Path, typer.Argument(help="File of an image.")],
    model: ModelFolder,
    question: Annotated[str, typer.Option(help="What to ask. Default: whether there is any anomaly.")] = "",
    prompter: PrompterFolder = None,
) -> None:
    """Ask a local language model with learnt prompts about an image. What it says decides nothing."""
    from vad_lib.words.evaluation import picture_of
    from vad_lib.words.prompter.dialogue import QUESTION

    prompted = load_prompted(existing_line(name), model, prompter)
    console.print(prompted.answer(picture_of(image), question or QUESTION), markup=False)


def load_prompted(line: Line, model: Path, prompter: Path | None) -> Prompted:
    """Return a local language model with the prompts that were learnt on a line.

    Raises:
        VadError: the model or the prompts cannot be read, or do not fit together.
    """
    from vad_dagster.plans import plan_of
    from vad_lib.words.prompter.language_model import LanguageModel
    from vad_lib.words.prompter.prompted import Prompted

    return Prompted.load(prompter or line.folder / "prompter", LanguageModel(model, plan_of(line).train.accelerator))
