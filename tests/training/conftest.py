"""Fixtures of the tests of training."""

import pytest

from modeling_transrec import TransRecForSequentialRecommendation, TransRecTrainer, TransRecTrainingArguments

from ..tiny import tiny_config


@pytest.fixture
def make_trainer(items, train_split, validation_split, make_model, processor_of, tmp_path):
    def make(
        kind="text",
        model_fields=None,
        callbacks=None,
        output="out",
        train=train_split,
        validation=validation_split,
        processor=None,
        model_init=None,
        trainer_options=None,
        **options,
    ):
        options = {
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "use_cpu": True,
            "disable_tqdm": True,
            **options,
        }
        args = TransRecTrainingArguments(output_dir=str(tmp_path / output), **options)
        model = make_model(kind, **(model_fields or {})) if model_init is None else None
        return TransRecTrainer(
            model,
            args,
            items,
            train,
            validation,
            processing_class=processor or processor_of[kind],
            callbacks=callbacks,
            model_init=model_init,
            **(trainer_options or {}),
        )

    return make


@pytest.fixture(scope="session")
def trained_twice(tmp_path_factory, items, train_split, tokenizer, text_processor):
    """The folder of a training with two checkpoints; not to be changed."""
    folder = tmp_path_factory.mktemp("trained_twice")
    args = TransRecTrainingArguments(
        str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        eval_strategy="no",
        load_best_model_at_end=False,
        save_total_limit=None,
        use_cpu=True,
        disable_tqdm=True,
    )
    model = TransRecForSequentialRecommendation(tiny_config("text", tokenizer))
    TransRecTrainer(model, args, items, train_split, processing_class=text_processor).train()
    return folder
