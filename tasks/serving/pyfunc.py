"""The same model for MLflow: `mlflow models serve -m models:/ketcycle@champion --env-manager local`.

A model folder gets the files that make it an MLflow model from code: what is loaded are safetensors and this module,
never a pickle.
"""

from __future__ import annotations

import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import yaml
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from infra.errors import BadInput
from tasks.model.generation.generate import Sampling
from tasks.serving.engine import BadPrompt, Engine, weights_digest

CODE = "served.py"
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "prompt")]),
    outputs=Schema([ColSpec("string")]),
    params=ParamSchema(
        [
            ParamSpec("max_tokens", "integer", 16),
            ParamSpec("temperature", "double", 0.0),
            ParamSpec("top_p", "double", 1.0),
            ParamSpec("seed", "long", 0),
        ]
    ),
)
LOADER = f'''"""Loads the model of this folder for MLflow."""

from pathlib import Path

import mlflow

from {__name__} import Completions

mlflow.models.set_model(Completions(Path(__file__).parent))
'''


class Completions(PythonModel):
    """Completes the prompts of a column together, with the engine of the completion server."""

    _skip_type_hint_validation = True  # ours is the signature; without this MLflow gives advice at every import

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._engine: Engine | None = None

    def load_context(self, context: Any) -> None:  # noqa: ARG002
        """Load the weights."""
        self._engine = Engine(self._folder)

    def predict(self, context, model_input, params=None) -> list[str]:  # type: ignore[no-untyped-def]
        """Return the completion of every prompt; the n-th one is drawn with seed + n.

        Raises:
            BadInput: a prompt does not fit into the context.
        """
        if self._engine is None:
            self.load_context(context)
        assert self._engine is not None  # noqa: S101
        asked = {spec.name: spec.default for spec in SIGNATURE.params.params} | (params or {})
        seed = int(asked.pop("seed"))
        try:
            prompts = [self._engine.prompt(str(text)) for text in model_input["prompt"]]
        except BadPrompt as error:
            raise BadInput(str(error)) from None
        futures = [self._engine.submit(p, Sampling(seed=seed + i, **asked)) for i, p in enumerate(prompts)]
        return [future.result().text for future in futures]


def add_mlflow_files(folder: Path) -> None:
    """Write beside the weights what makes a folder an MLflow model; the same weights give the same files."""
    digest = weights_digest(folder)
    described = Model(model_uuid=digest, utc_time_created="1970-01-01 00:00:00.000000")
    with TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an example of the input, and of types for a schema; there is a signature
        code, made = Path(scratch) / CODE, Path(scratch) / "model"
        code.write_text(LOADER)
        mlflow.pyfunc.save_model(
            made,
            python_model=str(code),
            mlflow_model=described,
            signature=SIGNATURE,
            pip_requirements=[f"ketcycle=={version('ketcycle')}"],
        )
        notes = yaml.safe_load((made / "MLmodel").read_text())
        notes["flavors"]["python_function"]["model_code_path"] = CODE  # not the path it had here
        (made / "MLmodel").write_text(yaml.safe_dump(notes))
        shutil.copytree(made, folder, dirs_exist_ok=True)
