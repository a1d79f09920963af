"""Losses of TRL 1.16 on given log-probabilities: `python render_trl.py > trl_golden.json`.

The trainers' own `_compute_loss` runs, with a model that returns what it is told.
"""

import collections
import json
import types

import torch
from trl import DPOTrainer, GRPOTrainer, RewardTrainer

KEEP = types.SimpleNamespace(
    device="cpu",
    gather_for_metrics=lambda x: x,
    gather=lambda x: x,
    reduce=lambda x, reduction: x,
    num_processes=1,
    sync_gradients=False,
)
LENGTHS = [[4, 2], [3, 5], [1, 1]]  # tokens of the preferred answers and of the others
T = 6


def trainer(**fields):
    plain = {
        "model": types.SimpleNamespace(training=False),
        "accelerator": KEEP,
        "aux_loss_enabled": False,
        "_metrics": collections.defaultdict(lambda: collections.defaultdict(list)),
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    return types.SimpleNamespace(**plain | fields)


def dpo(kind, beta, smoothing, logps, reference, mask):
    """Sequences of T + 1 tokens; `logps` [2P, T] is 0 where the mask [2P, T] is."""
    own = trainer(
        ld_alpha=None,
        precompute_ref_logps=True,
        loss_types=[kind],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=smoothing,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        args=types.SimpleNamespace(),
    )
    whole = torch.cat([torch.zeros(len(mask), 1), mask], dim=1)
    said = types.SimpleNamespace(
        log_probs=logps, entropy=logps, mean_logits=logps, is_top1=mask.bool()
    )
    chosen, rejected = reference.chunk(2)
    inputs = {
        "input_ids": torch.ones_like(whole).long(),
        "attention_mask": torch.ones_like(whole).long(),
        "completion_mask": whole,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    return float(DPOTrainer._compute_loss(own, lambda **_: said, inputs, False))


def reward(better, worse, margin, center):
    own = trainer(args=types.SimpleNamespace(center_rewards_coefficient=center or None))
    both = torch.cat([better, worse])
    inputs = {"input_ids": both.long(), "attention_mask": both.long()}
    if margin is not None:
        inputs["margin"] = margin
    said = types.SimpleNamespace(logits=both[:, None])
    return float(RewardTrainer.compute_loss(own, lambda **_: said, inputs))


def grpo(kind, beta, low, high, new, old, reference, mask, advantages):
    own = trainer(
        beta=beta,
        epsilon_low=low,
        epsilon_high=high,
        loss_type=kind,
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        max_completion_length=T,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        args=types.SimpleNamespace(
            delta=None, use_bias_correction_kl=False, steps_per_generation=1
        ),
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, new * 0, None),
    )
    inputs = {
        "prompt_ids": mask[:, :1].long(),
        "prompt_mask": mask[:, :1],
        "completion_ids": mask.long(),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    return float(GRPOTrainer._compute_loss(own, None, inputs))


def masked(generator, lengths, start):
    mask = torch.zeros(len(lengths), T)
    for row, count in zip(mask, lengths, strict=True):
        row[start : start + count] = 1
    return -3 * torch.rand(mask.shape, generator=generator) * mask, mask


def main():
    generator = torch.Generator().manual_seed(3)
    lengths = [pair[side] for side in (0, 1) for pair in LENGTHS]
    logps, mask = masked(generator, lengths, 1)
    reference = (logps + torch.randn(logps.shape, generator=generator) * mask).sum(1)
    found = {"logprobs": logps.tolist(), "mask": mask.tolist(), "reference": reference.tolist()}
    cases = [
        ("sigmoid", 0.1, 0.0),
        ("sigmoid", 0.5, 0.0),
        ("robust", 0.3, 0.2),
        ("hinge", 0.2, 0.0),
        ("ipo", 0.4, 0.0),
    ]
    found["dpo"] = [[*case, dpo(*case, logps, reference, mask)] for case in cases]
    scores = torch.randn(3, 4, generator=generator)
    found["scores"] = scores.tolist()
    found["ranking"] = [
        [center, margin, reward(scores[0], scores[1], scores[2].abs() if margin else None, center)]
        for center, margin in ((0.0, False), (0.0, True), (0.1, True))
    ]
    new, mask = masked(generator, [6, 2, 4, 1], 0)
    noise = [0.3 * torch.randn(new.shape, generator=generator) * mask for _ in range(2)]
    advantages = torch.tensor([1.2, -0.7, 0.4, -0.9])
    policy = {"new": new, "old": new + noise[0], "reference": new + noise[1], "mask": mask}
    found["policy"] = {
        name: x.tolist() for name, x in (policy | {"advantages": advantages}).items()
    }
    settings = [("grpo", 0.0), ("grpo", 0.04), ("bnpo", 0.04), ("dr_grpo", 0.04)]
    found["grpo"] = [
        [*one, grpo(*one, 0.2, 0.28, *policy.values(), advantages)] for one in settings
    ]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
