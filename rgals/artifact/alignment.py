"""A model put into the row numbers of a dataset, as the evaluator takes it."""

from rgals.artifact.model import Model
from rgals.data.dataset import Dataset
from rgals.evaluation.alignment import AlignedModel, align_model

__all__ = ["align_to_dataset"]


def align_to_dataset(model: Model, dataset: Dataset, name: str) -> AlignedModel:
    """Put a model into a dataset's row numbers, by id where it was trained on another dataset.

    Parameters
    ----------
    model : Model
        The opened model.
    dataset : Dataset
        What it will be evaluated on.
    name : str
        Name in the report.

    Raises
    ------
    InputError
        If the model and the dataset have no item in common.
    """
    fingerprint = model.lineage.get("dataset_fingerprint")
    train_s = model.metrics.get("train_s")
    return align_model(
        dataset,
        name=name,
        user_factors=model.user_factors,
        item_factors=model.item_factors,
        user_ids=model.user_ids,
        item_ids=model.item_ids,
        fingerprint=None if fingerprint is None else str(fingerprint),
        solve=model.contents.user_system.solve,
        train_s=None if train_s is None else float(train_s),
        options={**model.config, "factor_sha256": model.factor_checksum},
    )
