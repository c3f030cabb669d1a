"""Recurrent Q-learning: its loss against a slow loop, and that it learns to remember."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch.nn import functional as F

from agents.algorithms.recipes.recurrent_q import cartpole_positions
from agents.algorithms.recurrent_q import RecurrentQ, RecurrentQConfig
from agents.policies.recurrent_q_network import previous_actions
from agents.types import Sequences
from lab.backbones import BackboneConfig
from lab.config.overrides import override
from lab.data.spec import DataSpec, Discrete, TensorSpec
from lab.errors import UserError
from lab.training.train import train

SPEC = DataSpec(TensorSpec((3,)), actions=Discrete(2))


@pytest.mark.parametrize("name", ["gru", "lstm"])
@pytest.mark.parametrize(("burn_in", "loss_name", "n_step"), [(0, "huber", 1), (4, "mse", 1), (4, "mse", 3)])
def test_loss_is_a_loop_over_steps(name: str, burn_in: int, loss_name: Literal["mse", "huber"], n_step: int) -> None:
    torch.manual_seed(0)
    backbone = BackboneConfig(name, hidden=5)
    settings = RecurrentQConfig(backbone=backbone, burn_in=burn_in, sequence_length=4, gamma=0.9, loss=loss_name)
    agent = RecurrentQ(settings, SPEC)
    for p in agent.target_network.parameters():
        p.data += 0.2 * torch.randn_like(p)
    length, batch = burn_in + 4, 3
    terminated = torch.zeros(length, batch, dtype=torch.bool)
    truncated, start, valid = (torch.zeros_like(terminated) for _ in range(3))
    valid[:] = True
    terminated[burn_in + 1, 0] = start[burn_in + 2, 0] = True
    truncated[burn_in, 1] = start[burn_in + 1, 1] = True
    terminated[burn_in + 1, 2], valid[burn_in + 2, 2], start[burn_in + 3, 2] = True, False, True  # a row only resets
    sequences = Sequences(
        obs=torch.randn(length, batch, 3),
        action=torch.randint(2, (length, batch)),
        reward=torch.randn(length, batch),
        terminated=terminated,
        truncated=truncated,
        next_obs=torch.randn(length, batch, 3),
        start=start,
        valid=valid,
    )
    torch.manual_seed(1)
    minibatch = agent.batch(sequences, n_step)
    clear = minibatch.start
    begins = clear[:-1] & ~start  # where memories begin: in the first half of the burn-in
    assert begins.sum(0).tolist() == [1] * batch
    assert not begins[burn_in // 2 + 1 :].any()
    total, count = 0.0, 0
    for b in range(batch):
        q_rows, target_rows = [], []
        for network, rows in ((agent.q_network, q_rows), (agent.target_network, target_rows)):
            state = network.encoder.backbone.initial_state(1)
            for t in range(length + 1):
                obs = sequences.obs[t, b] if t < length else sequences.next_obs[-1, b]  # type: ignore[index]
                reset = start[t, b].view(1, 1) if t < length else torch.zeros(1, 1, dtype=torch.bool)
                previous = 0 if t == 0 or reset else int(sequences.action[t - 1, b]) + 1
                inputs = torch.cat([obs, F.one_hot(torch.tensor(previous), 3).float()])
                q_values, state = network(inputs.view(1, 1, 6), state, reset | bool(clear[t, b]))
                rows.append(q_values[0, 0])
        for t in range(burn_in, length):
            y, last = float(sequences.reward[t, b]), t
            while last - t + 1 < n_step and last + 1 < length and not (terminated | truncated)[last, b]:
                last += 1
                y += 0.9 ** (last - t) * float(sequences.reward[last, b])
            if not valid[t, b] or truncated[last, b]:
                continue
            bootstrap = target_rows[last + 1][q_rows[last + 1].argmax()] * (not terminated[last, b])
            y += 0.9 ** (last - t + 1) * float(bootstrap)
            error = F.mse_loss if loss_name == "mse" else F.smooth_l1_loss
            total += float(error(q_rows[t][sequences.action[t, b]], torch.tensor(y)))
            count += 1
    assert float(agent.loss(minibatch).value) == pytest.approx(total / count, rel=1e-4)


def test_the_policy_remembers_its_last_action_as_sequences_do() -> None:
    torch.manual_seed(0)
    settings = RecurrentQConfig(backbone=BackboneConfig("lstm", hidden=5), normalize_obs=True, head_hidden=(4,))
    agent = RecurrentQ(settings, SPEC)
    obs, start = torch.randn(6, 3, 3), torch.zeros(6, 3, dtype=torch.bool)
    start[0] = start[4, 1] = True
    agent.policy.epsilon.fill_(0.5)
    noise = agent.policy.draw_noise(6, 3, torch.Generator().manual_seed(0))
    state, actions, q_values = agent.policy.initial_state(3), [], []
    for t in range(6):
        state = state * (~start[t])[None, :, None]
        q_values.append(agent.policy.preferences(obs[t], state).scores)
        action, state, _ = agent.policy.act(obs[t], state, noise[t])
        actions.append(action)
    previous = previous_actions(torch.stack(actions), start)
    assert previous[-1].tolist() == [int(action) + 1 for action in actions[-1]]
    assert not previous[:-1][start].any()
    network = agent.q_network
    whole, _ = network(network.prepare(obs, previous[:-1]), network.encoder.backbone.initial_state(3), start)
    torch.testing.assert_close(whole, torch.stack(q_values))


def test_a_backbone_without_memory_is_refused() -> None:
    with pytest.raises(UserError, match="memory"):
        RecurrentQConfig(backbone=BackboneConfig("mlp")).build(SPEC)


@pytest.mark.slow
def test_runs_and_refuses_priorities() -> None:
    short = [
        "trainer.budget=2600",
        "trainer.eval_period=2600",
        "module.sequence_length=4",
        "module.burn_in=2",
        "tracking.mode=disabled",
    ]
    result = train(override(cartpole_positions(), short))
    assert result.run.result()["updates"] > 20
    with pytest.raises(UserError, match="priority"):
        train(override(cartpole_positions(), [*short, "data.replay.priority.alpha=0.5"]))
