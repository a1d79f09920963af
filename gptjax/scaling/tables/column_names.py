"""Column names: settings of a run told from its results, seeds and labels by the words of the name.

A setting that varies unseen among runs which a law takes for equal spoils it, and a result that is
taken for a setting refuses a good table. Whole words decide: `grad_acc` is no accuracy,
`memory_tokens` no memory in use, `update_every` no date.
"""

import re

RESULTS = """
    acc accuracy bpb budget cell created date datetime device devices digest ended exitcode finished
    flops hash host hostname hour hours id loss losses minutes nll node perplexity ppl progress
    reason runtime score scores sec second seconds secs seed seeds skipped started state status std
    stderr time timestamp trunk bundle url uuid walltime worker workers
"""
"""Words of results, seeds and labels."""
KNOBS = """
    coef coeff coefficient decay depth dim embedding embeddings every factor fn frac fraction
    function groups heads interval kind layers len length mixer mode moment rank rate ratio scale
    scaling schedule scheduler size slots steps type weight weights width
"""
"""Last words of a setting, whatever is before them: loss_weight, state_dim, time_steps."""
_RESULTS, _KNOBS = (frozenset(words.split()) for words in (RESULTS, KNOBS))
_LABELS = frozenset(("name", "run", "runs"))  # where the name begins or ends with it
_ENDINGS = ("loss", "time", "seed", "seconds", "accuracy")  # of words that are written together
_LOSSES = frozenset(("loss", "nll", "ppl", "perplexity"))
_SIZES = frozenset(("params", "tokens"))  # where the name begins with it
_MEMORY = re.compile(
    r"memory($|_(gi?b|mi?b|bytes|used|usage|peak|allocated|reserved|percent|max)($|_))"
)
_RATES = re.compile(r"bits_per|tokens_per|per_s(ec|econd)?$|exit_code|grad(ient)?_norm(?!_clip)")
_KNOWN = re.compile(
    r"(^|_)(lr|wd|bs|beta_?[12]|momentum|epsilon|eps|dataset|z_loss)(_|$)|learning_?rate|batch"
    r"|weight_?decay|warm_?up|drop_?out|schedul|optimi[sz]er|smoothing|(^|_)init(_|$)|seq_?len"
    r"|accum|grad(ient)?_acc|memory_(tokens|len|size)|context|window|max_grad_norm|precision|dtype"
    r"|clip_?(norm|val)|grad_?clip|tokeni[sz]er|vocab|num_(heads|layers)|time_?(embed|scale|mix)"
    r"|loss_(scale|weight|type|fn)|run_?length|score_(fn|func)|state_(size|dim)"
)
_MEASURED = re.compile(
    r"time(?!_?(embed|scale|mix))|second|per_s(ec)?$|hour|stat(e|us)$|^(eval|train|val)_loss"
    r"|(?<!max_grad_)(?<!clip_)(?<!clip)norm$"
)


def is_setting(name: str) -> bool:
    """Whether the name is that of a common setting.

    >>> [is_setting(name) for name in ("lr", "config/batchSize", "grad_acc", "z_loss")]
    [True, True, True, True]
    >>> [is_setting(name) for name in ("batch_seconds", "batch_loss", "vocab_loss")]
    [False, False, False]
    """
    words = words_of(name)
    plain = "_".join(words)
    measured = plain != "z_loss" and words[-1:] and words[-1] in _LOSSES
    return bool(_KNOWN.search(plain)) and not measured and not _MEASURED.search(plain)


def is_no_setting(name: str) -> bool:
    """Whether the name is that of a seed, a label, a size or a result.

    >>> [is_no_setting(name) for name in ("memory_tokens", "update_every", "grad_norm_clip")]
    [False, False, False]
    >>> [is_no_setting(name) for name in ("evalLoss", "peak_memory_gb", "run_name", "top1_acc")]
    [True, True, True, True]
    """
    words = words_of(name)
    if not words:
        return False
    plain = "_".join(words)
    if _RATES.search(plain) or _MEMORY.search(plain) or words[0] in _SIZES:
        return True
    if words[-1] in _KNOBS:
        return False
    if words[0] in _LABELS or words[-1] in _LABELS:
        return True
    return any(word in _RESULTS or word.endswith(_ENDINGS) for word in words)


def letters_of(name: str) -> list[str]:
    """Its words without their digits.

    >>> letters_of("hasCrashed"), letters_of("sys/failed"), letters_of("val_ppl_c4")
    (['has', 'crashed'], ['sys', 'failed'], ['val', 'ppl', 'c'])
    """
    return re.findall("[a-z]+", " ".join(words_of(name)))


def words_of(name: str) -> list[str]:
    """Its words in lower case, parted at capitals, dots, slashes and the like.

    >>> words_of("sys/valLoss.mean")
    ['sys', 'val', 'loss', 'mean']
    """
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return [word for word in re.split(r"[^a-z0-9]+", parted) if word]
