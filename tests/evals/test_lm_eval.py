"""lm-evaluation-harness on local tasks: its numbers for our model and for its own of that folder.

Needs lm-eval, torch and transformers, and is skipped without them.
"""

import json
from pathlib import Path

import numpy as np
import pytest

lm_eval = pytest.importorskip("lm_eval")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from gptjax import evals, infer  # noqa: E402
from gptjax.errors import UserError  # noqa: E402
from gptjax.evals import Document, choices  # noqa: E402
from gptjax.evals import lm_eval as adapter  # noqa: E402
from gptjax.evals.tasks import items  # noqa: E402
from gptjax.evals.tasks.harness_file import read_task  # noqa: E402


@pytest.fixture(scope="module", params=["plain", "begins"])
def folder(request, tmp_path_factory):
    """A random GPT-2 with a BPE of its own, which may put a token before each text, as Llama's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    place = tmp_path_factory.mktemp("gpt2")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(["The keys near the door are 12 + 30 = 42"] * 50, trainer)
    begin = "<|endoftext|>"
    if request.param == "begins":
        begin = BEGIN
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, bpe.token_to_id(BEGIN))]
        )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token=begin
    )
    fast.save_pretrained(place)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(fast),
        n_positions=192,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(place)
    return place


BEGIN = "<|begin|>"
SHOTS = (0, 1, 5)


@pytest.fixture(scope="module")
def harness(folder, tmp_path_factory):
    """Samples of both models on a task of choices and one of texts."""
    place = tmp_path_factory.mktemp("tasks")
    made = [*items.arithmetic(20), *items.agreement(20)]
    rows = [{"question": i.question, "choices": list(i.choices), "answer": i.answer} for i in made]
    texts = [{"text": "The keys near the door are 42. " * n} for n in (1, 5, 12)]
    for name, some in (("own", rows), ("texts", texts)):
        path = place / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
    files = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {}\ntest_split: test\n"
    for shots in SHOTS:
        (place / f"own{shots}.yaml").write_text(
            f"task: own{shots}\noutput_type: multiple_choice\n"
            + files.format(place / "own.jsonl")
            + "doc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: answer\n"
            "metric_list:\n  - metric: acc\n  - metric: acc_norm\ndescription: 'Right: '\n"
            "fewshot_split: test\nfewshot_config:\n  sampler: first_n\n"
            f"num_fewshot: {shots}\n"
        )
    (place / "texts.yaml").write_text(
        "task: texts\noutput_type: loglikelihood_rolling\n"
        + files.format(place / "texts.jsonl")
        + "doc_to_text: ''\ndoc_to_target: '{{text}}'\nmetric_list:\n  - metric: bits_per_byte\n"
    )
    (place / "answers.yaml").write_text(
        "task: answers\noutput_type: generate_until\n"
        + files.format(place / "own.jsonl")
        + "doc_to_text: '{{question}}'\ndoc_to_target: '{{choices[answer]}}'\n"
        "generation_kwargs:\n  until: ['e']\n  max_new_tokens: 6\n  do_sample: false\n"
        "metric_list:\n  - metric: exact_match\n"
    )
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(place), include_defaults=False)
    found = {}
    for name, model in (
        ("ours", adapter.Registered(folder=str(folder))),
        ("theirs", HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)),
    ):
        found[name] = lm_eval.simple_evaluate(
            model,
            tasks=["texts", "answers", *(f"own{n}" for n in SHOTS)],
            task_manager=manager,
            log_samples=True,
            bootstrap_iters=1,
        )
    return made, texts, found, place


def test_choices_agree_item_by_item_with_any_number_of_shots(folder, harness):
    made, _, found, place = harness
    path = place / "own0.yaml"
    settings = evals.EvalConfig(tasks=(str(path),), shots=SHOTS)
    for shots, own in zip(SHOTS, evals.evaluate(infer.load(folder), settings), strict=True):
        for name in ("ours", "theirs"):
            samples = found[name]["samples"][f"own{shots}"]
            assert len(samples) == len(made) == len(own.items)
            samples = sorted(samples, key=lambda one: one["doc_id"])
            for row, sample in zip(own.items, samples, strict=True):
                totals = [float(one[0]) for one in sample["filtered_resps"]]
                np.testing.assert_allclose(row["logprobs"], totals, atol=2e-3)
                assert float(row["pick"] == row["answer"]) == sample["acc"]
                assert float(row["pick_norm"] == row["answer"]) == sample["acc_norm"]
            scores = found[name]["results"][f"own{shots}"]
            for key in ("acc", "acc_norm"):
                assert own.metrics[key].value == pytest.approx(scores[f"{key},none"])
                error = own.metrics[key].stderr
                assert error == pytest.approx(scores[f"{key}_stderr,none"], rel=1e-6)


def test_rolling_likelihoods_agree(folder, harness):
    _, texts, found, _ = harness
    if infer.load(folder).begins:
        pytest.skip("the harness scores the beginning too, after another one, and counts it")
    own = evals.perplexity(infer.load(folder), [Document(one["text"]) for one in texts])
    for name in ("ours", "theirs"):
        score = found[name]["results"]["texts"]["bits_per_byte,none"]
        assert own.metrics["bits_per_byte"].value == pytest.approx(score, rel=2e-5)


def test_generated_answers_agree(harness):
    made, _, found, _ = harness
    ours, theirs = (
        {one["doc_id"]: one["filtered_resps"] for one in found[name]["samples"]["answers"]}
        for name in ("ours", "theirs")
    )
    assert ours == theirs and len(ours) == len(made) and len(set(map(str, ours.values()))) > 3


ROWS = [
    {"q": f"q {n}?", "options": [f"x{n}", "y", "z"], "place": n % 3, "letter": "ABC"[n % 3]}
    | {"right": (f"x{n}", "y", "z")[n % 3], "gold": str(n % 3), "subject": f"s{n}"}
    for n in range(5)
]
LETTERED = "{{q.strip()}}\nA. {{options[0]}}\nB. {{options[1]}}\nC. {{options[2]}}\nAnswer:"


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize(
    "said",
    [
        {"description": "About {{subject}}: "},
        {"description": "subject", "doc_to_text": "q"},
        {"fewshot_split": None, "training_split": "dev"},
        {"fewshot_split": None, "validation_split": "dev"},
        {"fewshot_split": "dev", "training_split": "test", "target_delimiter": ""},
        {"doc_to_target": "right", "doc_to_text": "{{q}} "},
        {"doc_to_target": "{{gold}}", "doc_to_choice": "options", "doc_to_text": "{{q}}\n"},
        {"doc_to_target": "gold", "doc_to_choice": ["0", "1", "2"]},
        {"doc_to_text": "", "doc_to_target": "right"},
        {"doc_to_target": "{{letter}}", "doc_to_choice": ["A", "B", "C"], "doc_to_text": LETTERED},
        {"doc_to_target": "{{options.index(right)}}", "doc_to_choice": "{{options[:2] + ['z']}}"},
        {"doc_to_target": 1, "doc_to_choice": {"a": "x", "b": "{{q}}"}},
    ],
)
def test_prompts_choices_and_answers_are_the_harnesss(tmp_path, said, shots):
    """Character by character, in zero and two shots; no model is needed."""
    import yaml
    from lm_eval.api.task import ConfigurableTask

    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("test", "dev")}
    for name, path in files.items():
        rows = [row | {"q": f"{name} {row['q']}"} for row in ROWS]
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {
        "task": "t",
        "output_type": "multiple_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "fewshot_split": "test",
        "fewshot_config": {"sampler": "first_n"},
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "place",
        "metric_list": [{"metric": "acc"}],
    } | said
    said = {key: value for key, value in said.items() if value is not None}
    theirs = ConfigurableTask(config={**said, "num_fewshot": shots})
    theirs.build_all_requests(rank=0, world_size=1)
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(said))
    ours = read_task(tmp_path / "t.yaml")
    pool, asked = ours.examples or ours.items, []
    begun = ours.descriptions or [""] * len(ours.items)
    for before, item in zip(begun, ours.items, strict=True):
        context, endings = choices.STYLES[ours.style](item)
        shown = before + choices._shown(pool, item, shots, ours.style, "t")
        asked += [(shown + context, ending) for ending in endings]
    assert asked == [one.args for one in sorted(theirs.instances, key=lambda i: (i.doc_id, i.idx))]
    for item, doc in zip(ours.items, theirs.eval_docs, strict=True):
        target = theirs.doc_to_target(doc)
        known = theirs.doc_to_choice(doc)
        assert item.answer == (known.index(target) if isinstance(target, str) else target)


def test_what_would_change_the_scores_is_refused(folder):
    with pytest.raises(UserError, match="add_bos_token is not read"):
        adapter.Registered(folder=str(folder), batch_size=4, add_bos_token=True)
    with pytest.raises(UserError, match="give folder=DIR"):
        adapter.Registered(batch_size=4)
    model = adapter.Registered(folder=str(folder))
    for name, value in (("num_beams", 4), ("repetition_penalty", 1.2), ("max_length", 9)):
        with pytest.raises(UserError, match=f"generation_kwargs has {name}={value}, which is not"):
            model._sampling({"until": [], name: value})
    found = model._sampling({"temperature": 0.5, "top_p": 0.9, "top_k": 3, "num_beams": 1})
    assert (found.temperature, found.top_p, found.top_k) == (0.5, 0.9, 3)
    assert model._sampling({"temperature": 0.5, "do_sample": False}).temperature == 0.0
    empty = dict.fromkeys(("temperature", "top_p", "top_k", "max_gen_toks", "num_beams"))
    assert model._sampling(empty) == model._sampling({})


def test_generation_stops_where_it_is_told(folder):
    class Instance:
        args = ("The keys", {"until": ["zz"], "max_gen_toks": 5})

    model = adapter.Registered(folder=str(folder))
    (text,) = model.generate_until([Instance()])
    (answer,) = infer.generate(
        infer.load(folder), ["The keys"], infer.sampling("greedy", max_tokens=5)
    )
    assert text == answer.text
