"""What the lab is measured beside: the same algorithms and networks as plain PyTorch loops.

The PPO loop has CleanRL's arithmetic (ppo.py), the DQN loop that of its dqn.py with replay on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F


def cartpoles(num: int) -> gym.vector.VectorEnv:
    """gymnasium's own vectors of CartPole: plain ones when there are few, arrays when there are many."""
    if num >= 64:
        return gym.make_vec("CartPole-v1", num_envs=num, vectorization_mode="vector_entry_point")
    return gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * num)


def perceptron(inputs: int, hidden: tuple[int, ...], outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers with an activation between them."""
    sizes, layers = (inputs, *hidden), []
    for size, following in zip(sizes, hidden, strict=False):
        layers += [nn.Linear(size, following), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def ppo(num_envs: int, num_steps: int, epochs: int, minibatches: int, device: str) -> Callable[[], int]:
    """One iteration of PPO, which returns its steps: two perceptrons of 64 and 64, clipped values, GAE."""
    envs = cartpoles(num_envs)
    actor, critic = (perceptron(4, (64, 64), outputs, nn.Tanh).to(device) for outputs in (2, 1))
    parameters = [*actor.parameters(), *critic.parameters()]
    adam = torch.optim.Adam(parameters, lr=2.5e-4, eps=1e-5)
    observations = torch.zeros(num_steps, num_envs, 4, device=device)
    actions, logps, rewards, values, ends = (torch.zeros(num_steps, num_envs, device=device) for _ in range(5))
    now, ended = torch.as_tensor(envs.reset(seed=0)[0], device=device), torch.zeros(num_envs, device=device)

    def iterate() -> int:
        nonlocal now, ended
        for t in range(num_steps):
            observations[t], ends[t] = now, ended
            with torch.no_grad():
                policy = Categorical(logits=actor(now))
                actions[t] = action = policy.sample()
                logps[t], values[t] = policy.log_prob(action), critic(now).flatten()
            seen, reward, terminated, truncated, _ = envs.step(action.cpu().numpy())
            rewards[t] = torch.as_tensor(reward, device=device).float()
            now = torch.as_tensor(seen, device=device)
            ended = torch.as_tensor(terminated | truncated, device=device).float()
        with torch.no_grad():
            advantages, last = torch.zeros_like(rewards), 0.0
            following, alive = critic(now).flatten(), 1 - ended
            for t in reversed(range(num_steps)):
                last = rewards[t] + 0.99 * following * alive - values[t] + 0.99 * 0.95 * alive * last
                advantages[t], following, alive = last, values[t], 1 - ends[t]
        rows = (observations, actions, logps, values, advantages, advantages + values)
        flat = [x.reshape(num_steps * num_envs, *x.shape[2:]) for x in rows]
        for _ in range(epochs):
            for part in torch.randperm(num_steps * num_envs, device=device).chunk(minibatches):
                seen, action, logp, value, advantage, target = (x[part] for x in flat)
                policy, new = Categorical(logits=actor(seen)), critic(seen).flatten()
                ratio = (policy.log_prob(action) - logp).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                policy_loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()
                near = value + (new - value).clamp(-0.2, 0.2)
                value_loss = 0.5 * torch.max((new - target) ** 2, (near - target) ** 2).mean()
                adam.zero_grad()
                (policy_loss - 0.01 * policy.entropy().mean() + 0.5 * value_loss).backward()
                nn.utils.clip_grad_norm_(parameters, 0.5)
                adam.step()
        return num_steps * num_envs

    return iterate


def dqn(num_envs: int, steps_per_update: int, batch_size: int, device: str, updates: int = 50) -> Callable[[], int]:
    """Fifty updates of DQN with their steps, which it returns: a perceptron of 120 and 84, uniform replay."""
    envs, capacity = cartpoles(num_envs), 100_000
    net, target = (perceptron(4, (120, 84), 2, nn.ReLU).to(device) for _ in range(2))
    adam = torch.optim.Adam(net.parameters(), lr=2.5e-4)
    seen, following = (torch.zeros(capacity, 4, device=device) for _ in range(2))
    actions = torch.zeros(capacity, dtype=torch.int64, device=device)
    rewards, ends = torch.zeros(capacity, device=device), torch.zeros(capacity, device=device)
    now, filled, at = torch.as_tensor(envs.reset(seed=0)[0], device=device), 0, 0

    def step() -> None:
        nonlocal now, filled, at
        with torch.no_grad():
            greedy = net(now).argmax(1)
        explore = torch.rand(num_envs, device=device) < 0.05
        action = torch.where(explore, torch.randint(2, (num_envs,), device=device), greedy)
        found, reward, terminated, _, _ = envs.step(action.cpu().numpy())
        rows = (torch.arange(num_envs, device=device) + at) % capacity
        seen[rows], actions[rows] = now, action
        now = torch.as_tensor(found, device=device)
        following[rows], rewards[rows] = now, torch.as_tensor(reward, device=device).float()
        ends[rows] = torch.as_tensor(terminated, device=device).float()
        at, filled = (at + num_envs) % capacity, min(filled + num_envs, capacity)

    def iterate() -> int:
        steps = max(1, steps_per_update // num_envs)
        for _ in range(updates):
            for _ in range(steps):
                step()
            rows = torch.randint(filled, (batch_size,), device=device)
            with torch.no_grad():
                best = target(following[rows]).max(1).values
                goal = rewards[rows] + 0.99 * best * (1 - ends[rows])
            value = net(seen[rows]).gather(1, actions[rows, None])[:, 0]
            adam.zero_grad()
            F.mse_loss(value, goal).backward()
            adam.step()
        target.load_state_dict(net.state_dict())
        return updates * steps * num_envs

    return iterate


def supervised(net: nn.Module, images: Tensor, labels: Tensor, batch_size: int, fused: bool) -> Callable[[], int]:
    """One update of a classifier on images that are on the device, which returns its images."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused)

    def step() -> int:
        rows = torch.randint(len(images), (batch_size,), device=images.device)
        optimizer.zero_grad()
        F.cross_entropy(net(images[rows].float() / 255), labels[rows]).backward()
        optimizer.step()
        return batch_size

    return step


class PlainVAE(nn.Module):
    """784-512-16-512-784 with a Bernoulli likelihood."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = perceptron(784, (512,), 32, nn.ReLU)
        self.decoder = perceptron(16, (512,), 784, nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """The negative ELBO of images (N, 784), averaged."""
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        nll = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1)
        return (nll + kl).mean()


def vae(images: Tensor, batch_size: int, compiled: bool) -> Callable[[], int]:
    """One update of the VAE on images (N, 784) in [0, 1]."""
    net: Callable[[Tensor], Tensor]
    net = module = PlainVAE().to(images.device)
    if compiled:
        net = torch.compile(module)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)

    def step() -> int:
        rows = torch.randint(len(images), (batch_size,), device=images.device)
        optimizer.zero_grad()
        net(torch.bernoulli(images[rows])).backward()
        optimizer.step()
        return batch_size

    return step
