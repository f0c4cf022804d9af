"""DQN in one file, in the style of single-file RL scripts: plain torch and gymnasium. It knows nothing of playmeter."""

import argparse
import random
import time

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--total-timesteps", type=int, default=3000)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--buffer-size", type=int, default=10000)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--target-network-frequency", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--start-e", type=float, default=1.0)
    parser.add_argument("--end-e", type=float, default=0.05)
    parser.add_argument("--exploration-fraction", type=float, default=0.5)
    parser.add_argument("--learning-starts", type=int, default=500)
    parser.add_argument("--train-frequency", type=int, default=4)
    return parser.parse_args()


def make_env(env_id, seed):
    if env_id.startswith("ALE/"):
        import ale_py

        gym.register_envs(ale_py)
        env = gym.make(env_id, frameskip=1, repeat_action_probability=0.0)
        env = gym.wrappers.AtariPreprocessing(env, terminal_on_life_loss=True, scale_obs=True)
        env = gym.wrappers.FrameStackObservation(env, 4)
    else:
        env = gym.make(env_id)
    env = gym.wrappers.RecordEpisodeStatistics(env)
    env.action_space.seed(seed)
    return env


class QNetwork(nn.Module):
    def __init__(self, env):
        super().__init__()
        shape, actions = env.observation_space.shape, int(env.action_space.n)
        if len(shape) == 3:
            self.network = nn.Sequential(
                nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
                nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, actions),
            )  # fmt: skip
        else:
            self.network = nn.Sequential(
                nn.Linear(int(np.prod(shape)), 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, actions)
            )

    def forward(self, x):
        return self.network(x)


class ReplayBuffer:
    def __init__(self, size, shape, seed):
        self.rng = np.random.default_rng(seed)
        self.obs = np.zeros((size, *shape), np.float32)
        self.next_obs = np.zeros((size, *shape), np.float32)
        self.actions = np.zeros(size, np.int64)
        self.rewards = np.zeros(size, np.float32)
        self.dones = np.zeros(size, np.float32)
        self.size, self.position, self.full = size, 0, False

    def add(self, *transition):
        for array, value in zip((self.obs, self.next_obs, self.actions, self.rewards, self.dones), transition, strict=True):
            array[self.position] = value
        self.position = (self.position + 1) % self.size
        self.full = self.full or self.position == 0

    def sample(self, batch_size):
        rows = self.rng.integers(self.size if self.full else self.position, size=batch_size)
        return [torch.as_tensor(a[rows]) for a in (self.obs, self.next_obs, self.actions, self.rewards, self.dones)]


def linear_schedule(start, end, duration, t):
    return max((end - start) / duration * t + start, end)


def main():
    args = parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    env = make_env(args.env_id, args.seed)
    q_network, target_network = QNetwork(env).to(device), QNetwork(env).to(device)
    target_network.load_state_dict(q_network.state_dict())
    optimizer = optim.Adam(q_network.parameters(), lr=args.learning_rate)
    buffer = ReplayBuffer(args.buffer_size, env.observation_space.shape, args.seed)

    start_time = time.time()
    obs, _ = env.reset(seed=args.seed)
    for global_step in range(args.total_timesteps):
        epsilon = linear_schedule(args.start_e, args.end_e, args.exploration_fraction * args.total_timesteps, global_step)
        if random.random() < epsilon:
            action = int(env.action_space.sample())
        else:
            with torch.no_grad():
                action = int(q_network(torch.as_tensor(obs, dtype=torch.float32, device=device)[None]).argmax(1))
        next_obs, reward, terminated, truncated, info = env.step(action)
        buffer.add(obs, next_obs, action, reward, float(terminated))
        obs = next_obs
        if terminated or truncated:
            print(f"global_step={global_step}, episodic_return={float(info['episode']['r'])}")
            obs, _ = env.reset()

        if global_step > args.learning_starts and global_step % args.train_frequency == 0:
            b_obs, b_next, b_actions, b_rewards, b_dones = (t.to(device) for t in buffer.sample(args.batch_size))
            with torch.no_grad():
                td_target = b_rewards + args.gamma * target_network(b_next).max(1).values * (1 - b_dones)
            q_values = q_network(b_obs).gather(1, b_actions[:, None]).squeeze(1)
            loss = F.mse_loss(q_values, td_target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if global_step % args.target_network_frequency == 0:
            target_network.load_state_dict(q_network.state_dict())
    print(f"SPS: {int(args.total_timesteps / (time.time() - start_time))}")
    env.close()


if __name__ == "__main__":
    main()
