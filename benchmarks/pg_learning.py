"""What the policy gradients learn: 5 seeds of each recipe, best and last checkpoint over 100 greedy (or mean) episodes.

python benchmarks/pg_learning.py
python benchmarks/pg_learning.py --recipes ppo/pendulum --seeds 3
"""

from learning import learning_benchmark

TARGETS = {
    "pg/cartpole": 490,
    "pg/a2c-cartpole": 490,
    "impala/cartpole": 490,
    "ppo/cartpole": 490,
    "ppo/cartpole-positions": 490,
    "ppo/acrobot": -80,
    "ppo/mountain-car": -110,
    "ppo/pendulum": -170,
    "ppo/lunar-lander": 245,
    "ppo/bipedal-walker": 280,
    "ppo/pong": 20,
}

if __name__ == "__main__":
    learning_benchmark("pg_learning", __doc__, TARGETS, only_when_asked=["ppo/pong"])
