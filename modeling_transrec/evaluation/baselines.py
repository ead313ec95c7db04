"""Lists what needs no training; the rows stand in every table that a command prints, and in every card.

A model is worth what it adds to them. Only training interactions are counted.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse
import torch

from ..data.loading import count_interactions, index_histories, values_of_interactions
from ..data.transitions import Transitions
from ..models.batch import UserInputs
from ..models.checkpoint_files import public_name
from ..models.processing_transrec import TransRecProcessor
from .evaluator import FullRankingEvaluator
from .features import Content
from .language_models import LanguageModelRanker, LanguageModelScorer
from .reranking import learn_reranker
from .scoring import CatalogueScorer
from .settings import settings_of
from .weighing import (
    ScoringChoice,
    best_scorer,
    choose,
    choose_content,
    describe_scoring,
    empty_scorer,
    has_transitions,
)


LANGUAGE_MODEL = "language-model"
RERANKED = "transitions, re-ranked"


class Platform:
    """
    What is known of a platform before anything is trained, of which a baseline takes what it needs.

    All but the items may be given as functions without arguments, which are called when a baseline asks for it.

    Args:
        items: the catalogue, `item_id` and its content.
        sequences: training histories, column `item_ids` and, where interactions count differently, `weights`; `None`
            where no history is known, as of a platform to which a model is moved.
        whole_sequences: the training histories uncut, in which transitions are counted; by default `sequences`.
        validation: ranks the validation split, on which settings are chosen.
        content: features of the items, or `None` where there is no backbone to make them.
        language_model: ranks the items' titles by their likelihood, or `None`.
        num_settings: how many settings of each baseline are tried on the validation split, see [`settings_of`].
    """

    def __init__(
        self,
        items: datasets.Dataset,
        sequences: datasets.Dataset | Callable[[], datasets.Dataset] | None,
        whole_sequences: datasets.Dataset | Callable[[], datasets.Dataset] | None = None,
        validation: FullRankingEvaluator | Callable[[], FullRankingEvaluator | None] | None = None,
        content: Content | Callable[[], Content | None] | None = None,
        language_model: Callable[[], LanguageModelRanker | None] | None = None,
        num_settings: int | None = None,
    ):
        self.items, self.num_settings = items, num_settings
        self.has_histories = sequences is not None
        self._given = {"sequences": sequences, "validation": validation, "content": content}
        self._given["language_model"] = language_model
        self._given["whole_sequences"] = sequences if whole_sequences is None else whole_sequences

    def _get(self, name: str) -> Any:
        given = self._given[name]
        return given() if callable(given) and not isinstance(given, FullRankingEvaluator) else given

    @functools.cached_property
    def sequences(self) -> datasets.Dataset:
        """Training histories as item ids."""
        return self._get("sequences")

    @functools.cached_property
    def histories(self) -> datasets.Dataset:
        """Training histories as indices into the catalogue, see [`index_histories`]."""
        return index_histories(self.sequences, self.items["item_id"][:])

    @functools.cached_property
    def num_interactions(self) -> np.ndarray:
        """Number of training interactions with each item `(V,)`."""
        return count_interactions(self.histories, len(self.items))

    @functools.cached_property
    def item_counts(self) -> np.ndarray:
        """What the training interactions with each item count `(V,)`: their number, or the sum of their weights."""
        weights = values_of_interactions(self.sequences, "weights")
        if weights is None:
            return self.num_interactions
        return count_interactions(self.histories, len(self.items), weights)

    @functools.cached_property
    def times(self) -> np.ndarray | None:
        """When each of the training interactions happened `(N,)`; `None` where that is not known."""
        return values_of_interactions(self.sequences, "timestamps")

    @functools.cached_property
    def taken(self) -> scipy.sparse.csr_array:
        """Which user took which item in the training histories, zeros and ones `(N, V)`."""
        from .neighbours import interactions  # scikit-learn takes a second

        sequences, known = self._get("whole_sequences"), self.items["item_id"][:]
        taken = pc.unique(pc.list_flatten(pa.chunked_array(sequences.with_format("arrow")[:]["item_ids"]))).to_pylist()
        others = sorted(set(taken) - set(known))  # of the histories' beginnings, which are not read and not ranked
        histories = index_histories(sequences, [*known, *others])
        return interactions(histories, len(known) + len(others))[:, : len(known)]

    @functools.cached_property
    def transitions(self) -> Transitions:
        """How often one item of the catalogue follows another in the training histories."""
        return Transitions.from_sequences(self._get("whole_sequences"), self.items["item_id"])

    @functools.cached_property
    def validation(self) -> FullRankingEvaluator | None:
        """Ranks the validation split."""
        return self._get("validation")

    @functools.cached_property
    def content(self) -> Content | None:
        """The features of the items; `None` where there is no backbone."""
        return self._get("content")

    @property
    def known_content(self) -> Content:
        """The features of the items.

        Raises:
            ValueError: if there is no backbone that makes them.
        """
        if self.content is None:
            raise ValueError("content-knn compares items by their content and needs a backbone; name a text model")
        return self.content

    @functools.cached_property
    def language_model(self) -> LanguageModelRanker | None:
        """A language model that ranks the items' titles."""
        return self._get("language_model")

    @functools.cached_property
    def content_settings(self) -> dict:
        """Settings of content kNN, chosen on the validation split where there is one."""
        content = self.known_content
        if self.validation is None:
            return {}
        return choose_content(content, self.validation, settings_of("content-knn", self.num_settings))


def random(platform: Platform) -> tuple[CatalogueScorer, dict]:
    """Scores all items the same, which is worth exactly what a random ranking is."""
    return empty_scorer(len(platform.items)), {}


def popularity(platform: Platform) -> tuple[CatalogueScorer, dict]:
    """Scores items by what their training interactions count, the same for everybody."""
    counts = torch.from_numpy(platform.item_counts).float()
    return empty_scorer(len(counts)).replace(item_scores=counts), {}


def recent_popularity(platform: Platform) -> tuple[CatalogueScorer, dict]:
    """Scores items by their latest training interactions only; how late is chosen on the validation split.

    Raises:
        ValueError: if the interactions have no times.
    """
    times = platform.times
    if times is None:
        raise ValueError("recent-popularity counts the latest interactions, and this data set has no times")
    nothing, counts = empty_scorer(len(platform.items)), []
    settings = settings_of("recent-popularity", platform.num_settings)
    for setting in settings:
        is_late = times >= np.quantile(times, 1 - setting["latest_share"])
        counts.append(count_interactions(platform.histories, len(platform.items), is_late.astype(np.float64)))
    scorers = [nothing.replace(item_scores=torch.from_numpy(one).float()) for one in counts]
    chosen = 0 if platform.validation is None else best_scorer(scorers, platform.validation)
    return scorers[chosen], settings[chosen]


def _sets(name: str, platform: Platform) -> tuple[CatalogueScorer, dict]:
    """Returns what is learnt from the training histories as sets; the validation split chooses its setting."""
    from .neighbours import MAKERS  # scikit-learn takes a second

    nothing, settings, chosen = empty_scorer(len(platform.items)), settings_of(name, platform.num_settings), 0

    def make(setting: dict) -> CatalogueScorer:
        return nothing.replace(transitions=MAKERS[name](platform.taken, **setting))

    if platform.validation is not None:
        chosen = best_scorer(map(make, settings), platform.validation)
    return make(settings[chosen]), settings[chosen]


def last_item_transitions(platform: Platform) -> tuple[CatalogueScorer, dict]:
    """Scores items by the transitions from the history's last item only."""
    return _only_transitions(platform, ScoringChoice(1.0, transition_settings={"history_decay": 1e-9}))


def transitions(platform: Platform) -> tuple[CatalogueScorer, dict]:
    """Scores items by the transitions from the history's items to them, see [`Transitions`]."""
    if platform.validation is None:
        return _only_transitions(platform, ScoringChoice(1.0))
    nothing, settings = empty_scorer(len(platform.items)), settings_of("transitions", platform.num_settings)
    choice = choose(nothing, platform.transitions, platform.validation, (1.0,), (0.0,), settings)
    return _only_transitions(platform, choice)


def _only_transitions(platform: Platform, choice: ScoringChoice) -> tuple[CatalogueScorer, dict]:
    scorer = choice.apply(empty_scorer(len(platform.items)), platform.transitions)
    return scorer, choice.describe(platform.transitions)


def content_knn(platform: Platform) -> tuple[CatalogueScorer, dict]:
    """Scores items by how like the history their content is, see [`ContentKNN`]."""
    settings, content = platform.content_settings, platform.known_content
    scorer = content.fit(**settings)
    return scorer, {"content": {**settings, "source": content.source, **content.made, "weights": scorer.model.weights}}


def content_and_transitions(platform: Platform) -> tuple[CatalogueScorer, dict]:
    """Scores items by the sum of both, and of their popularity."""
    return add_transitions(*content_knn(platform), platform)


def language_model(platform: Platform) -> tuple[CatalogueScorer, dict]:
    """Scores items by the likelihood of their titles after a prompt, see [`LanguageModelRanker`]."""
    ranker = platform.language_model
    if ranker is None:
        raise ValueError(f"{LANGUAGE_MODEL} prompts one; name it: --language_model_name_or_path")
    source = public_name(ranker.model.name_or_path)
    return LanguageModelScorer(ranker), {LANGUAGE_MODEL: {"source": source, **ranker.settings}}


def add_transitions(
    scorer: CatalogueScorer,
    description: dict,
    platform: Platform,
    transition_weight: str = "auto",
    user_inputs: UserInputs | None = None,
) -> tuple[CatalogueScorer, dict]:
    """Adds a platform's transitions, and with `auto` popularity, to any dense scores, those of a trained model, too.

    Args:
        scorer: makes the dense scores.
        description: what the protocol says of them.
        platform: the platform, of which the validation split must be known.
        transition_weight: `"auto"`, or a number in units of the dense scores' spread.
        user_inputs: of each user of the validation split, see [`FullRankingEvaluator.user_inputs`].

    Returns:
        The scorer of the sum, and what the protocol says of it.
    """
    if platform.validation is None:
        raise ValueError("the weight of transitions is chosen on a validation split, and there is none")
    weights: dict[str, Any] = {}
    if transition_weight != "auto":
        weights = {"transition_weights": (float(transition_weight),), "popularity_weights": (0.0,)}
    choice = choose(scorer, platform.transitions, platform.validation, user_inputs=user_inputs, **weights)
    description = {**description, **choice.describe(platform.transitions)}
    return choice.apply(scorer, platform.transitions), description


def rerank(
    scorer: CatalogueScorer, description: dict, platform: Platform, user_inputs: UserInputs | None = None
) -> tuple[CatalogueScorer, dict]:
    """Adds a [`Reranker`] that the platform's validation split teaches, where it gains something.

    Args:
        scorer, description: what [`add_transitions`] returned.
        platform: the platform.
        user_inputs: as in [`add_transitions`].

    Returns:
        The scorer with the reranker, and what the protocol says of it.
    """
    if platform.validation is None:
        raise ValueError("re-ranking is learnt from a validation split, and there is none")
    if scorer.transitions is None:  # of weight 0
        scorer = scorer.replace(transitions=platform.transitions, transition_weight=0.0)
    reranker, found = learn_reranker(scorer, platform.validation, user_inputs)
    return scorer.replace(reranker=reranker), {**description, **found}


# Name → what makes a scorer of what is known of a platform, and says for the protocol what was chosen.
BASELINES: dict[str, Callable[[Platform], tuple[CatalogueScorer, dict]]] = {
    "random": random,
    "popularity": popularity,
    "recent-popularity": recent_popularity,
    "last-item-transitions": last_item_transitions,
    "transitions": transitions,
    "item-knn": functools.partial(_sets, "item-knn"),
    "session-knn": functools.partial(_sets, "session-knn"),
    "ease": functools.partial(_sets, "ease"),
    "slim": functools.partial(_sets, "slim"),
    "content-knn": content_knn,
    "content-and-transitions": content_and_transitions,
    LANGUAGE_MODEL: language_model,
}
TIMED_BASELINES = ("recent-popularity",)  # which need the times of interactions
CONTENT_BASELINES = ("content-knn", "content-and-transitions")
# Minutes or more where users or items are many: up to so many they stand in tables that do not name them.
SLOW_BASELINES = {"item-knn": 5_000, "session-knn": 5_000, "ease": 5_000, "slim": 1_000}
COUNTING_BASELINES = ("popularity", "recent-popularity", "last-item-transitions", "transitions", *SLOW_BASELINES)
COUNTING_BASELINES += ("content-and-transitions",)


def describe_left_out(rows: Collection[str]) -> str:
    """Returns sentences on the baselines that [`known_baselines`] has left out of a table, and why.

    Args:
        rows: names of the table's rows.

    Example:

    >>> describe_left_out([name for name in BASELINES if name != "slim"])
    'Without slim: it takes long above 1,000 users or items.'
    """
    missing = [name for name in BASELINES if name not in rows and name != LANGUAGE_MODEL]
    sentences = []
    if "popularity" in rows:
        for limit in sorted(set(SLOW_BASELINES.values())):
            slow = [name for name in missing if SLOW_BASELINES.get(name) == limit]
            if slow:
                takes = "it takes" if len(slow) == 1 else "they take"
                sentences.append(f"Without {_listed(slow)}: {takes} long above {limit:,} users or items.")
        if "recent-popularity" in missing:
            sentences.append("Without recent-popularity: the times of the interactions are not known.")
    of_content = [name for name in missing if name in CONTENT_BASELINES]
    if len(of_content) == len(CONTENT_BASELINES) and set(rows) & set(BASELINES):
        sentences.append(f"Without {_listed(of_content)}: no pretrained backbone was at hand for them.")
    return " ".join(sentences)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def rank(
    evaluator: FullRankingEvaluator,
    scorer: CatalogueScorer,
    description: dict,
    scores: str,
    user_inputs: UserInputs | None = None,
) -> dict[str, Any]:
    """Returns the metrics of a scorer, the protocol that belongs to them, and the users' rankings.

    Args:
        evaluator: ranks a split.
        scorer: of the evaluator's catalogue.
        description: what was chosen for the scores, for the protocol.
        scores: what the scores are, likewise.
        user_inputs: of each user of the split, see [`FullRankingEvaluator.user_inputs`].
    """
    protocol = {**evaluator.protocol, "scores": scores}
    if description:
        protocol["scoring"] = describe_scoring(description)
    metrics = evaluator.rank(scorer, user_inputs)
    return {"metrics": metrics, "protocol": protocol, "rankings": evaluator.rankings}


def evaluate_baselines(
    evaluator: FullRankingEvaluator, platform: Platform | datasets.Dataset, rows: Iterable[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Returns metrics, protocol and rankings of each baseline whose ingredients are known, see [`rank`].

    Those of [`SLOW_BASELINES`] are left out where users or items are many, and the language model always, unless they
    are named. Those by content
    need a backbone, and the sum needs a validation split, too, on which its weight is chosen.

    Args:
        evaluator: ranks a split.
        platform: what is known of the platform, or only its training histories, column `item_ids`.
        rows: names of the baselines, which are all evaluated; by default those that are not left out.

    Example:

    >>> import datasets
    >>> items = datasets.Dataset.from_dict({"item_id": ["a", "b", "c", "d"]})
    >>> training = datasets.Dataset.from_dict({"item_ids": [["a", "b"], ["a", "b", "c"], ["a"]]})
    >>> sequences = datasets.Dataset.from_dict({"item_ids": [["a"], ["b"]], "target": ["b", "d"]})
    >>> evaluator = FullRankingEvaluator(items, sequences, ks=[1])
    >>> evaluate_baselines(evaluator, training)["popularity"]["metrics"]
    {'hr@1': 0.5, 'ndcg@1': 0.5, 'mrr': 0.667}
    """
    if isinstance(platform, datasets.Dataset):
        platform = Platform(evaluator.items, platform)
    if rows is None:
        rows = known_baselines(platform)
    return {name: rank(evaluator, *BASELINES[name](platform), scores=name) for name in rows}


def known_baselines(platform: Platform) -> list[str]:
    """Returns the names of the baselines for which all is known of a platform, and which take little time on it."""
    left_out = [LANGUAGE_MODEL]  # it reads a title for each user and candidate
    if not platform.has_histories:
        left_out += COUNTING_BASELINES
    elif platform.times is None:
        left_out += TIMED_BASELINES
    if platform.has_histories:
        size = max(len(platform.items), len(platform.sequences))
        left_out += [name for name, limit in SLOW_BASELINES.items() if size > limit]
    if platform.content is None:
        left_out += CONTENT_BASELINES
    elif platform.validation is None:
        left_out += ["content-and-transitions"]
    return [name for name in BASELINES if name not in left_out]


def evaluate_model(
    evaluator: FullRankingEvaluator,
    scorer: CatalogueScorer,
    processor: TransRecProcessor,
    platform: Platform,
    transition_weight: str = "0",
    is_reranked: bool = False,
) -> list[dict[str, Any]]:
    """Returns metrics, protocol and rankings of a model: by its own scores and, with a weight, with transitions added.

    Args:
        evaluator: ranks a split.
        scorer: of the model.
        processor: the model's processor.
        platform: what is known of the platform.
        transition_weight: see [`add_transitions`]; `"0"` adds none.
        is_reranked: whether the sum is re-ranked, too, see [`rerank`].
    """
    config: Any = scorer.model.config
    own, users = evaluator.protocol["scores"], evaluator.user_inputs(processor, config)
    found = [rank(evaluator, scorer, {}, own, users)]
    if has_transitions(transition_weight):
        of_validation = None if platform.validation is None else platform.validation.user_inputs(processor, config)
        both = add_transitions(scorer, {}, platform, transition_weight, of_validation)
        found.append(rank(evaluator, *both, f"{own} + transitions", users))
        if is_reranked:
            found.append(rank(evaluator, *rerank(*both, platform, of_validation), f"{own} + {RERANKED}", users))
    return found
