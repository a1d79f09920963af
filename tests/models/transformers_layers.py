"""Single layers and functions of `transformers` with our inputs (needs the extra `parity`)."""

import numpy as np


def gpt_oss_attention(q_BTNH, k_BTKH, v_BTKH, sinks_N):
    """Causal attention with sinks: the one function of theirs that has them."""
    import torch
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    class Layer:
        num_key_value_groups = q_BTNH.shape[2] // k_BTKH.shape[2]
        training = False

    Layer.sinks = torch.tensor(sinks_N)
    T, H = q_BTNH.shape[1], q_BTNH.shape[3]
    mask = torch.triu(torch.full((T, T), -1e30), diagonal=1)[None, None]
    turned = [torch.tensor(x).transpose(1, 2) for x in (q_BTNH, k_BTKH, v_BTKH)]
    return eager_attention_forward(Layer, *turned, mask, scaling=H**-0.5)[0].numpy()


def switch(x_BTD, w, capacity):
    """Switch's layer: each token's best expert, weighed, those beyond the capacity left out."""
    import torch
    from transformers import SwitchTransformersConfig
    from transformers.models.switch_transformers import modeling_switch_transformers as modeling

    E, D, F = w["experts_up"].shape
    config = SwitchTransformersConfig(
        hidden_size=D,
        d_model=D,
        d_ff=F,
        num_experts=E,
        expert_capacity=capacity,
        dense_act_fn="relu",
        router_bias=False,
        router_jitter_noise=0.0,
    )
    layer = modeling.SwitchTransformersSparseMLP(config).eval()
    layer.router.classifier.weight.data = torch.tensor(w["router"].T.copy())
    for e in range(E):
        expert = layer.experts[f"expert_{e}"]
        expert.wi.weight.data = torch.tensor(w["experts_up"][e].T.copy())
        expert.wo.weight.data = torch.tensor(w["experts_down"][e].T.copy())
    with torch.no_grad():
        return layer(torch.tensor(x_BTD)).numpy()


def router_losses(logits_BTE):
    """(Switch's balance loss of top-1, of each sequence; z loss; Mixtral's balance of top-2)."""
    import torch
    from transformers.models.mixtral import modeling_mixtral
    from transformers.models.switch_transformers import modeling_switch_transformers as modeling

    logits = torch.tensor(logits_BTE)
    E = logits.shape[-1]
    balance = modeling.load_balancing_loss_func(logits.softmax(-1), logits.argmax(-1))
    pooled = modeling_mixtral.load_balancing_loss_func((logits.reshape(-1, E),), E, top_k=2)
    return [float(x) for x in (balance, modeling.router_z_loss_func(logits), pooled)]


def initial_sizes(config, kinds):
    """kind -> standard deviation over all layers of a fresh GPT-2's matrices of that name."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.seq_len,
            n_embd=config.width,
            n_layer=config.depth,
            n_head=config.num_heads,
        )
    )
    leaves = {
        kind: [leaf for name, leaf in model.named_parameters() if name.endswith(f"{kind}.weight")]
        for kind in kinds
    }
    return {
        kind: float(np.concatenate([leaf.detach().numpy().ravel() for leaf in some]).std())
        for kind, some in leaves.items()
    }
